"""The contract between a user and the job: what a manifest row may say, and who a clip is.

`identity` hashes, `schema` describes and checks one row, `reader` opens Parquet manifests, `texts`
reads JSONL and CSV, `build` turns those into Parquet, `check` reports every error at once.
"""
