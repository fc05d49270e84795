"""Commands that can't be carried out: one message, the right exit code, nothing half done."""

import json

import pyarrow as pa

from tests.errors.bad_things import (
    a_damaged_part,
    a_key_alone,
    a_key_of_another_certificate,
    a_key_without_its_frame,
    a_newer_output,
    an_expired_pair,
    an_output,
    an_output_with_moods,
    another_run,
    both,
    changes_while_read,
    cut_manifest,
    damaged_page,
    full_disk,
    link,
    model,
    newer_manifest,
    no_audioseal,
    no_pair,
    s3_server,
    settings,
    silent_endpoint,
    table,
    without_credentials,
    write,
    wrong_credentials,
)
from tests.errors.case import Command
from tests.errors.tables import SWEEPS, TABLES

RUN_GOOD = "run --manifest {good.parquet} --output {out} --model tiny"


MANIFESTS = (
    Command("a manifest that does not exist", "run --manifest {none.parquet} --output {out} "
            "--model tiny", "{none.parquet}: not found; check the path"),
    Command("an empty file", "plan --manifest {zero.parquet} --model tiny",
            "{zero.parquet}: is empty (0 bytes); write it again", use=write("zero.parquet", "")),
    Command("a manifest cut short", "plan --manifest {cut.parquet} --model tiny",
            "{cut.parquet}: can't be read (no sound Parquet file: …); check the file, "
            "the address and the credentials",
            use=cut_manifest),
    Command("a manifest with damaged rows", "plan --manifest {rotten.parquet} --model tiny",
            "{rotten.parquet}: can't be read (…); check the file, "
            "the address and the credentials", use=damaged_page),
    Command("a manifest without rows", "plan --manifest {none.parquet} --model tiny",
            "{none.parquet}: has no rows; add at least one",
            use=table("none.parquet", prompt=pa.array([], pa.string()))),
    Command("a folder without Parquet files", "plan --manifest {there} --model tiny",
            "{there}: no .parquet file is there; `musicgen-batch manifest build`",
            use=write("there/a.txt", "x")),
    Command("a CSV where Parquet is needed", "plan --manifest {in.csv} --model tiny",
            "{in.csv}: is a .csv file; build it first: musicgen-batch manifest build in.csv "
            "in.parquet", use=write("in.csv", "prompt\nx\n")),
    Command("a misspelt column", "plan --manifest {m.parquet} --model tiny",
            "{m.parquet}: column 'promt' looks like 'prompt': rename it, or list it in "
            "extra_columns (--extra-column) to carry it through",
            use=table("m.parquet", promt=["x"])),
    Command("text in a column of numbers", "plan --manifest {m.parquet} --model tiny",
            "{m.parquet}: column 'duration_s' is string in m.parquet, must be numbers; cast it",
            use=table("m.parquet", prompt=["x"], duration_s=["ten"])),
    Command("no column that says what to make", "plan --manifest {m.parquet} --model tiny",
            "{m.parquet}: no column says what to make (columns: song); one of prompt, … is needed",
            use=table("m.parquet", song=["x"])),
    Command("a column that the output keeps for itself", "plan --manifest {m.parquet} --model tiny",
            "{m.parquet}: column 'clip_id' is also a column of the output; rename it",
            use=table("m.parquet", prompt=["x"], clip_id=["1"])),
    Command("two files that disagree on a column", "plan --manifest {two} --model tiny",
            "{two}: column 'mood' is string in a.parquet and int64 in b.parquet; cast one of them",
            use=both(table("two/a.parquet", prompt=["x"], mood=["sad"]),
                     table("two/b.parquet", prompt=["x"], mood=[3]))),
    Command("a manifest of a newer version", "plan --manifest {newer.parquet} --model tiny",
            "{newer.parquet}: has manifest schema 99, this version knows up to 1; upgrade "
            "musicgen-batch", use=newer_manifest),
    Command("a manifest that changes while it is read", RUN_GOOD,
            "{good.parquet}: was replaced while it was being read; start the command again",
            use=changes_while_read),
    Command("a manifest that is a link back to itself", "plan --manifest {loop} --model tiny",
            "{loop}: can't be read (OSError: … Too many levels of symbolic links…); check the "
            "file, the address and the credentials",
            use=link("loop", "loop")),
    Command("a CSV with one column twice", "manifest build {in.csv} {out.parquet}",
            "{in.csv}: column 'prompt' stands there more than once; keep one",
            use=write("in.csv", "prompt,prompt\na,b\n")),
    Command("a quote that is never closed", "manifest build {in.csv} {out.parquet}",
            "in.csv line 2 row 0: the file is not readable CSV (…), and what follows was not read; "
            "close every quote, …{out.parquet} was not written; mend {in.csv} and build again",
            use=write("in.csv", 'id,prompt\na,"x\nb,y\n')),
    Command("a target that is no Parquet file", "manifest build {in.csv} {out.txt}",
            "{out.txt}: the output's name must end with .parquet",
            use=write("in.csv", "prompt\nx\n")),
    Command("a target below a file", "manifest build {in.csv} {in.csv/out.parquet}",
            "{in.csv/out.parquet}: can't be written (…); check the file, "
            "the address and the credentials",
            use=write("in.csv", "prompt\nx\n")),
)  # fmt: skip

MODELS = (
    Command("a model that nobody knows", "plan --manifest {good.parquet} --model huge",
            "model 'huge': no such folder (looked in …), and no hub id; give a folder, an id like "
            "facebook/musicgen-small, or one of: tiny, small, …"),
    Command("a hub id that is not in the cache, offline",
            "plan --manifest {good.parquet} --model someone/nothing",
            "model 'someone/nothing': no such folder, not complete in the local Hugging Face "
            "cache, and the hub did not give it (…); check the name and the network, or give a "
            "local folder"),
    Command("a folder that holds no model", "plan --manifest {good.parquet} --model {there}",
            "{there}: no config.json; a checkpoint in transformers' format (…) or AudioCraft's (…) "
            "is needed", use=write("there/a.txt", "x")),
    Command("another kind of model", "plan --manifest {good.parquet} --model {bert}",
            "{bert/config.json}: model_type='bert' is not a MusicGen; known: …",
            use=write("bert/config.json", json.dumps({"model_type": "bert"}))),
    Command("a truncated checkpoint", "run --manifest {good.parquet} --output {out} --model {cut}",
            "{cut/model.safetensors}: … bytes where its header promises …; the file is truncated "
            "or damaged, download it again", use=model("cut", "model.safetensors", slice(0, -100))),
    Command("a checkpoint of 3 bytes", "plan --manifest {good.parquet} --model {cut}",
            "{cut/model.safetensors}: no readable safetensors header (3 bytes); download it again",
            use=model("cut", "model.safetensors", slice(0, 3))),
    Command("a checkpoint without its tokenizer", "plan --manifest {good.parquet} --model {part}",
            "{part}: no tokenizer (tokenizer.json or spiece.model); copy the text encoder's "
            "tokenizer files into the folder", use=model("part", "tokenizer.json", None)),
    Command("half of a config.json", "plan --manifest {good.parquet} --model {part}",
            "{part/config.json}: not valid JSON (…); download it again",
            use=model("part", "config.json", slice(0, 60))),
    Command("an adapter that is a whole model",
            "plan --manifest {good.parquet} --model tiny --adapter {there}",
            "adapter '{there}': {there}: no adapter_config.json and no adapter_model.safetensors; "
            "this is a whole model, give it as the model; or say adapter=<folder or hub id>",
            use=write("there/config.json", "{}")),
    Command("a revision of what has none",
            "plan --manifest {good.parquet} --model tiny --revision v2",
            "model 'tiny': it has no revision 'v2', only hub ids have revisions; leave --revision "
            "out"),
)  # fmt: skip

OUTPUTS = (
    Command("an output in which we may not write",
            "run --manifest {good.parquet} --output /sys/music --model tiny",
            "--output /sys/music can't be used: cannot create file:///sys/music/lease/…: "
            "PermissionError: … (access was denied: check the credentials and the permissions on "
            "this path)"),
    Command("an output that is a file",
            "run --manifest {good.parquet} --output {good.parquet} --model tiny",
            "--output {good.parquet} can't be used: … (a file stands where a folder is needed: "
            "choose another path)"),
    Command("an output that is a link to nothing",
            "run --manifest {good.parquet} --output {link} --model tiny",
            "--output {link} can't be used: … not a folder: '{link}' (a file stands where a folder "
            "is needed: choose another path)", use=link("link", "nothing")),
    Command("an output that is a link back to itself",
            "run --manifest {good.parquet} --output {link} --model tiny",
            "--output {link} can't be used: … (a symbolic link there leads back to itself: remove "
            "it, or choose another path)", use=link("link", "link")),
    Command("a full disk", RUN_GOOD,
            "--output {out} can't be used: … No space left on device (the disk is full: make room "
            "and run the same command again)", use=full_disk),
    Command("an output of an unknown protocol",
            "run --manifest {good.parquet} --output ftp://host/x --model tiny",
            "--output ftp://host/x can't be used: cannot open ftp://host/x: ftp:// is not one of "
            "file://, s3://, gs://, memory://"),
    Command("`..` in an object store",
            "run --manifest {good.parquet} --output s3://bucket/../x --model tiny",
            "--output s3://bucket/../x: object stores know no `..`; write the path that is meant"),
    Command("a bucket that does not exist",
            "run --manifest {good.parquet} --output s3://no-such-bucket-here/x --model tiny",
            "--output s3://no-such-bucket-here/x can't be used: … (the bucket does not exist: "
            "create it, or check its name and the endpoint)", use=s3_server),
    Command("no credentials", "run --manifest {good.parquet} --output s3://bucket/x --model tiny",
            "--output s3://bucket/x can't be used: … NoCredentialsError: … (set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY or a profile, or pass --storage-option anon=true for a "
            "public bucket)", use=without_credentials),
    Command("wrong credentials",
            "run --manifest {good.parquet} --output s3://bucket/x --model tiny",
            "--output s3://bucket/x can't be used: … (access was denied: check the credentials and "
            "the permissions on this path)", use=wrong_credentials),
    Command("a store that does not answer",
            "run --manifest {good.parquet} --output s3://bucket/x --model tiny",
            "--output s3://bucket/x can't be used: … (the store did not recover: check the "
            "endpoint and the network, then run again)", use=silent_endpoint),
    Command("an output that another run is writing", RUN_GOOD + " --lease-ttl-s 1",
            "run on …, process … is writing to file://{out}; let it finish, or "
            "follow it with --wait",
            code=4, use=another_run),
    Command("an output that was begun with another audio mode", RUN_GOOD + " --audio parquet",
            "file://{out/clips} was begun with audio beside the Parquet parts, which --audio "
            "parquet would mix; use the same mode as before or a new --output", use=an_output),
    Command("an extra column that has another type than in the output",
            "run --manifest {mood.parquet} --output {out} --model tiny",
            "the extra column mood is string in the manifest, int64 in file://{out/clips}, and a "
            "column has one type: cast it to int64 in the manifest, or give it a new name there (a "
            "new column is null for the clips that stand), or write to a new --output",
            use=both(an_output_with_moods, table("mood.parquet", prompt=["x"], mood=["sad"]))),
    Command("an output of a newer version", RUN_GOOD,
            "file://{out/clips} has schema version 99, this program reads and writes …; write to "
            "a new --output, or go on with the program that began it", use=a_newer_output),
    Command("an output with a damaged part", RUN_GOOD,
            "file://{out/clips}/part-… can't be read as a part (…); `musicgen-batch verify "
            "--repair` moves such parts away, and the next run makes their clips anew", code=1,
            use=a_damaged_part),
    Command("the status of a folder that is no output", "status --output {there}",
            "{there}: no such output (none of clips, failed, runs, lease is there); check "
            "--output, or let `run` make it", use=write("there/a.txt", "x")),
    Command("the proof of an output with a damaged part", "verify --output {out}",
            "unreadable part: clips/part-…: file://{out/clips}/part-… can't be read as a part (…)",
            code=1, use=a_damaged_part),
    Command("a retry where no run left its settings",
            "retry --manifest {good.parquet} --output {out}",
            "model is missing; give --model or `model:` in job.yaml", use=an_output),
)  # fmt: skip

SETTINGS = (
    Command("no model", "run --manifest {good.parquet} --output {out}",
            "model is missing; give --model or `model:` in job.yaml"),
    Command("a config that does not exist", RUN_GOOD + " --config {none.yaml}",
            "{none.yaml}: cannot be read (No such file or directory); check --config"),
    Command("a config key that does not exist", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: unknown key slotz; did you mean slots in the section engine?",
            use=settings("slotz: 3")),
    Command("a config key in another section", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: unknown key cluster.slots; slots is in the section engine",
            use=settings("cluster: {slots: 3}")),
    Command("a config without sections", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: slots is now in the section engine; write\n  engine:\n    slots: 32",
            use=settings("slots: 32")),
    Command("a config that is no YAML", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: is not YAML at line …, column …: …; mend it", use=settings("slots: [3\n")),
    Command("a config that is a list", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: holds a list; write `key: value` lines", use=settings("- slots\n")),
    Command("a config with text for a number", RUN_GOOD + " --config {job.yaml}",
            "slots='many' must be a whole number from 1 to 1024, or auto; correct --slots or …",
            use=settings("engine: {slots: many}")),
    Command("a config with a number for a section", RUN_GOOD + " --config {job.yaml}",
            "{job.yaml}: generation is a int; write `key: value` lines below `generation:`",
            use=settings("generation: 5")),
    Command("a secret in the config", RUN_GOOD + " --config {job.yaml}",
            "storage option secret: credentials are not accepted here, they would end in logs; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            use=settings("run: {storage_options: {secret: hunter22}}")),
    Command("a secret in a flag", RUN_GOOD + " --storage-option secret=hunter22",
            "storage option secret: credentials are not accepted here, they would end in logs; …"),
    Command("a password in an address",
            "run --manifest {good.parquet} --output s3://me:hunter22@bucket/x --model tiny",
            "--output holds user:password@: credentials are not accepted there, they would end in "
            "logs; …"),
    Command("no slot", RUN_GOOD + " --slots 0",
            "slots=0 must be a whole number from 1 to 1024, or auto; correct --slots or job.yaml"),
    Command("a negative duration for all rows", RUN_GOOD + " --duration-s -1",
            "generation.duration_s=-1.0 must be more than 0 s; correct --duration-s or job.yaml"),
    Command("half precision without a GPU", RUN_GOOD + " --dtype fp16 --device cpu",
            "dtype=fp16 needs a GPU; use bf16 or fp32 with device=cpu"),
    Command("a scorer that does not exist", RUN_GOOD + " --score melodie",
            "score: no scorer is named 'melodie'; known: melody, key, tempo, voice, clap, "
            "aesthetics"),
    Command("a scorer twice", RUN_GOOD + " --score key,key",
            "score: key stands there twice; name it once"),
    Command("takes that nothing judges", RUN_GOOD + " --keep-best 1",
            "keep_best needs a scorer that judges the takes: add one, as in --score melody"),
    Command("a scorer whose weights are not here", RUN_GOOD + " --score clap=nobody/nothing",
            "score: clap=nobody/nothing is neither a folder nor in the cache of the hub, and a run "
            "downloads no scorer: `hf download nobody/nothing` on every machine, or give the "
            "folder that holds it"),
    Command("a flag that does not exist", RUN_GOOD + " --slotz 3",
            "No such option '--slotz'. (Did you mean one of: '--json', '--slots'?)"),
    Command("a flag with nonsense", RUN_GOOD + " --replicas many",
            "Invalid value for '--replicas': 'many' is not a valid integer."),
    Command("a flag with another choice", RUN_GOOD + " --audio mp5",
            "Invalid value for '--audio': 'mp5' is not one of 'files', 'parquet', 'webdataset'."),
    Command("half of a pair", RUN_GOOD + " --storage-option anon",
            "Invalid value for --storage-option: 'anon' is not KEY=VALUE"),
    Command("a resource that is no number", RUN_GOOD + " --replica-resource slot=x",
            "cluster.replica_resources.slot='x' is text, not a number; correct --replica-resource "
            "or job.yaml"),
    Command("a report of -3 clips", "report --output {out} --sample -3",
            "Invalid value for '--sample': -3 is not in the range 0<=x<=500."),
)  # fmt: skip

CLUSTER = (
    Command("a resource that no node has", RUN_GOOD + " --replica-resource antigravity=1",
            "this machine can't hold the job. Wanted: 1 replica with 1 CPU + 1 antigravity, 1 "
            "prepare actor with 0.5 CPU, 1 reading task with 0.25 CPU. There is: 1 node with … "
            "CPUs + 0 antigravity. No node has antigravity. What helps: name a larger cluster in "
            "RAY_ADDRESS"),
    Command("more GPUs than there are", RUN_GOOD + " --gpus-per-replica 1 --replicas 2",
            "this machine can't hold the job. Wanted: 2 replicas with 1 CPU + 1 GPU each, … No "
            "node has GPU. What helps: --gpus-per-replica 0, or name a larger cluster in "
            "RAY_ADDRESS"),
)  # fmt: skip

MARKS = (
    Command("signatures that are required, without keys", RUN_GOOD + " --c2pa require",
            "--c2pa require: neither MUSICGEN_C2PA_KEY nor MUSICGEN_C2PA_CERT is set; set them to "
            "PEM files (`musicgen-batch marks test-certificate` makes a pair for trials)",
            use=no_pair),
    Command("a key without its certificate", RUN_GOOD,
            "MUSICGEN_C2PA_KEY is set but MUSICGEN_C2PA_CERT is not; set both, or run with --c2pa "
            "off", use=a_key_alone),
    Command("a variable that holds part of a key", RUN_GOOD,
            "MUSICGEN_C2PA_KEY holds neither PEM text nor the path of a file that can be read (No "
            "such file or directory); mend the pair, or run with --c2pa off",
            use=a_key_without_its_frame),
    Command("an expired certificate", RUN_GOOD,
            "MUSICGEN_C2PA_CERT: the certificate 'musicgen-batch test certificate' expired at "
            "2024-03-31 12:00 UTC; mend the pair, or run with --c2pa off", use=an_expired_pair),
    Command("a key of another certificate", RUN_GOOD,
            "MUSICGEN_C2PA_KEY is not the key of MUSICGEN_C2PA_CERT: the first certificate there, "
            "'musicgen-batch test certificate', has another public key; mend the pair, or run with "
            "--c2pa off", use=a_key_of_another_certificate),
    Command("a test certificate where one is already", "marks test-certificate --out {there}",
            "{there}/c2pa-key.pem is already there: a key is never overwritten; name another --out",
            use=write("there/c2pa-key.pem", "x")),
    Command("a watermark without its package", RUN_GOOD + " --watermark audioseal",
            "--watermark audioseal needs the package audioseal, which is not installed; pip "
            "install 'musicgen-batch[watermark]'", use=no_audioseal),
    Command("a watermark of no strength", RUN_GOOD + " --watermark-strength 0",
            "marks.watermark_strength=0.0 must be more than 0; correct --watermark-strength or "
            "job.yaml"),
)  # fmt: skip

COMMANDS = (*MANIFESTS, *TABLES, *SWEEPS, *MODELS, *OUTPUTS, *SETTINGS, *MARKS)
