"""Lines of JSONL that `manifest check` reports all at once, with the types that JSON has."""

from tests.errors.case import Line

LINES: tuple[Line, ...] = (
    Line("a number in quotes", '{"id": "quoted", "prompt": "x", "duration_s": "ten"}',
         "line … row … (id=quoted): duration_s='ten' is text, not a number; write a plain number "
         "such as 2.5"),
    Line("a number for a prompt", '{"id": "seven", "prompt": 7}',
         "line … row … (id=seven): prompt=7 is an integer, not text; write it as text"),
    Line("true for a number", '{"id": "yes", "prompt": "x", "takes": true}',
         "line … row … (id=yes): takes=True is a boolean, not a whole number; write a plain whole "
         "number such as 3"),
    Line("text for true or false", '{"id": "maybe", "prompt": "x", "use_sampling": "maybe"}',
         "line … row … (id=maybe): use_sampling='maybe' is text, not true or false; write true or "
         "false"),
    Line("a list of references", '{"id": "many", "melody_uri": ["a.wav", "b.wav"]}',
         "line … row … (id=many): melody_uri=['a.wav', 'b.wav'] is a list, not text; write it as "
         "text"),
    Line("half of a surrogate pair", '{"id": "half", "prompt": "\\ud800"}',
         "line … row … (id=half): prompt=… holds half of a surrogate pair; write the text as "
         "proper UTF-8"),
    Line("a line that is no JSON", '{"id": "open", "prompt": ',
         "line … row …: … is not valid JSON (… at character …); write one JSON object per line"),
    Line("a line that is no object", '["a", "b"]',
         "line … row …: ['a', 'b'] is JSON, but no object; write one JSON object per line"),
    Line("a key that stands there twice", '{"id": "double", "prompt": "x", "prompt": "y"}',
         "line … row …: … has the key 'prompt' more than once; keep one of them"),
)  # fmt: skip

GOOD_LINE = '{"id": "fine", "prompt": "x", "duration_s": 2}'
