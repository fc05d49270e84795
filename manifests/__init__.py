"""The contract between a user and the job: what a manifest row may say, and who a clip is.

`identity` hashes, `schema` describes and checks one row, `reader` opens Parquet manifests,
`sources` reads tables of other forms, `build` makes manifests of those, `check` reports every error
at once.
"""
