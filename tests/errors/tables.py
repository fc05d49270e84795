"""Tables and sweeps of which `manifest build` makes nothing: one message, exit code 2."""

import gzip

from tests.errors.bad_things import both, table, write
from tests.errors.case import Command

BUILD = "manifest build {in.csv} {out.parquet}"

TABLES = (
    Command("a compressed CSV where Parquet is needed", "plan --manifest {in.csv.gz} --model tiny",
            "{in.csv.gz}: is a .csv.gz file; build it first: musicgen-batch manifest build "
            "in.csv.gz in.parquet", use=write("in.csv.gz", gzip.compress(b"prompt\nx\n"))),
    Command("a workbook where Parquet is needed", "plan --manifest {in.xlsx} --model tiny",
            "{in.xlsx}: is a .xlsx file; build it first: musicgen-batch manifest build in.xlsx "
            "in.parquet", use=write("in.xlsx", b"PK")),
    Command("a name that says no form", "manifest build {in.txt} {out.parquet}",
            "{in.txt}: its name does not say what it is (known: .csv, …, each also with .gz or "
            ".zst); rename it, or say it with --format", use=write("in.txt", "prompt\nx\n")),
    Command("an old workbook", "manifest build {in.xls} {out.parquet}",
            "{in.xls}: is a workbook of Excel before 2007; save it as .xlsx or .csv",
            use=write("in.xls", b"\xd0\xcf\x11\xe0")),
    Command("Parquet under the name of CSV", BUILD,
            "{in.csv}: is a Parquet file, not CSV; let its name end with .parquet",
            use=write("in.csv", b"PAR1....PAR1")),
    Command("compressed data that is cut short", "manifest build {in.csv.gz} {out.parquet}",
            "{in.csv.gz}: its compressed data is cut short; copy it again",
            use=write("in.csv.gz", gzip.compress(b"id,prompt\n" + b"a,x\n" * 99)[:-12])),
    Command("the ending .gz on what is not compressed", "manifest build {in.csv.gz} {out.parquet}",
            "{in.csv.gz}: is not compressed with gzip, although its name ends with .gz; rename it",
            use=write("in.csv.gz", "prompt\nx\n")),
    Command("an encoding that can't be found out", BUILD,
            "{in.csv}: is not UTF-8 (byte 0xF2 in line 2), and no other encoding fits for sure; "
            "save it as UTF-8, or name its own with --encoding, e.g. latin-1",
            use=write("in.csv", "id,prompt\na,тихая музыка\n".encode("cp1251"))),
    Command("an encoding that the file does not have", BUILD + " --encoding latin-1",
            "{in.csv}: begins with the byte order mark of UTF-16, which is not --encoding latin-1; "
            "leave --encoding out", use=write("in.csv", "prompt\nx\n".encode("utf-16"))),
    Command("fields that nothing known separates", BUILD,
            "{in.csv}: its header 'id^prompt' is one field, because ',' does not separate it; name "
            "what does with --delimiter '^'", use=write("in.csv", "id^prompt\na^x\n")),
    Command("two characters for a delimiter", BUILD + " --delimiter ::",
            "--delimiter '::': is not one character that can separate fields; give one, e.g. "
            "--delimiter ';', or tab", use=write("in.csv", "prompt\nx\n")),
    Command("JSON that is one object of columns", "manifest build {in.json} {out.parquet}",
            "{in.json}: is one object whose values are whole columns or tables ('prompt'); write "
            "an array of row objects (pandas: to_json(orient='records'))",
            use=write("in.json", '{"prompt": {"0": "a", "1": "b"}}')),
    Command("a folder of several forms", "manifest build {in} {out.parquet}",
            "{in}: holds files of several forms (1 csv, 1 jsonl); name those that are meant, e.g. "
            "'{in/*.csv}'",
            use=both(write("in/a.csv", "prompt\nx\n"), write("in/b.jsonl", '{"prompt": "x"}'))),
    Command("a pattern that fits no file", "manifest build {in/*.csv} {out.parquet}",
            "{in/*.csv}: no file matches; check the pattern", use=write("in/a.txt", "x")),
    Command("nothing on standard input", "manifest build - {out.parquet}",
            "standard input is empty (0 bytes); pipe a table into it"),
    Command("a column for --map that is misspelt", BUILD + " --map prompt=captoin",
            "--map prompt=captoin: there is no column 'captoin'; did you mean 'caption'? For that "
            "text in every row write --map 'prompt==captoin'",
            use=write("in.csv", "id,caption\na,x\n")),
    Command("a column of numbers for --map that is not there", BUILD + " --map duration_s=length",
            "--map duration_s=length: 'length' is neither a column nor a number; the columns are "
            "id, prompt", use=write("in.csv", "id,prompt\na,x\n")),
    Command("half of a --map", BUILD + " --map prompt",
            "--map 'prompt': is not NAME=COLUMN or NAME=VALUE; write e.g. --map prompt=caption",
            use=write("in.csv", "prompt\nx\n")),
    Command("text in a mapped column of numbers",
            "manifest build {in.parquet} {out.parquet} --map prompt=text --map duration_s=long",
            "{in.parquet}: column 'duration_s' is string in in.parquet, must be numbers; cast it",
            use=table("in.parquet", text=["x"], long=["ten"])),
    Command("a target that is also a source", "manifest build {in.parquet} {in.parquet}",
            "{in.parquet}: is also read; give the output another name",
            use=table("in.parquet", prompt=["x"])),
)  # fmt: skip

SWEEPS = (
    Command("neither a table nor a sweep", "manifest build {out.parquet}",
            "nothing is named to build from; name a file, or give --matrix"),
    Command("a value that its column does not take",
            "manifest build --matrix prompt=x --matrix cfg_coef=2,lots {out.parquet}",
            "--matrix cfg_coef: cfg_coef='lots' is text, not a number; write a plain number such "
            "as 2.5"),
    Command("one value twice", "manifest build --matrix prompt=x --matrix cfg_coef=3,3.0 "
            "{out.parquet}",
            "--matrix cfg_coef: 3.0 stands there twice; keep one of them"),
    Command("a value that is empty", "manifest build --matrix prompt=a,,b {out.parquet}",
            "--matrix prompt: has an empty value; give at least one, and none that is empty"),
    Command("one axis in two flags", "manifest build --matrix prompt=a --matrix prompt=b "
            "{out.parquet}",
            "--matrix prompt: its values are given twice; give them in one flag"),
    Command("half of a --matrix", "manifest build --matrix prompt {out.parquet}",
            "--matrix 'prompt': is not NAME=VALUE,VALUE; write it so"),
    Command("a word list that is not there",
            "manifest build --wordlist prompt={none.txt} {out.parquet}",
            "{none.txt}: not found; check the path"),
    Command("a word list without words", "manifest build --wordlist prompt={w.txt} {out.parquet}",
            "--wordlist prompt: has no value; give at least one, and none that is empty",
            use=write("w.txt", "# none yet\n\n")),
    Command("more combinations than a manifest may have",
            "manifest build --wordlist prompt={w.txt} --wordlist mood={w.txt} --wordlist "
            "bpm={w.txt} {out.parquet}",
            "the sweep has 27000000 combinations, over the limit of 10000000; take values away, or "
            "draw some with --sample N",
            use=write("w.txt", "\n".join(map(str, range(300))))),
    Command("a sample of nothing", "manifest build --sample 5 {in.csv} {out.parquet}",
            "--sample draws from a sweep; give --matrix or --wordlist too",
            use=write("in.csv", "prompt\nx\n")),
    Command("a sample of no rows", "manifest build --matrix prompt=a --sample 0 {out.parquet}",
            "--sample 0: must be at least 1; leave it out to take all"),
)  # fmt: skip
