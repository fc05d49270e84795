"""The bundled model: `checkpoint/` holds it, `make` writes it."""
