"""The field's datasets: their splits, their file layouts, and where to download them."""
