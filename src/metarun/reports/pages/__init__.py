"""The page of `metarun report`: what is read from runs, the figures of it, and the page itself."""
