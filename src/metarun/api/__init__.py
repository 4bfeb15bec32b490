"""What `import metarun` offers: one module for each idea, all of it described in docs/python.md."""
