"""Opening a URI: file systems, retries, what is said when a store fails, references."""
