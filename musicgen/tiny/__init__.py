"""The bundled model: its checkpoint (`checkpoint/`, which ships), and how it is made and measured.

`training` and `evaluation` are not in the wheel: nothing outside this folder and the tests imports
them.
"""
