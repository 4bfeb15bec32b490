"""Classes of images: their sources, their storage, and the episodes drawn from them."""
