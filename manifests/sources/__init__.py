"""What `manifest build` reads: tables of the forms that people have, row by row."""
