"""The field's datasets: their splits, the layouts in which they circulate, and where they may be fetched."""
