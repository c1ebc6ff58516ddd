"""One image through the line: observed, posed, fitted, distilled and packed, within the memory that there is."""
