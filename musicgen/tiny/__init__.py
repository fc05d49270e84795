"""The bundled model: `checkpoint/` holds it, `train` makes it from music of its own `synth`."""
