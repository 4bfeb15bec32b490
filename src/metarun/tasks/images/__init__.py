"""Classes of images: where they come from, how they are kept, and the episodes that are drawn from them."""
