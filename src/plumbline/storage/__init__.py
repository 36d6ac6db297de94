"""Files, rows, locks and printable text: what every folder above writes and reads with; nothing of the domain."""
