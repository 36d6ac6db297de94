"""What people look at: overlays, charts, and self-contained HTML pages. Nothing here needs torch."""
