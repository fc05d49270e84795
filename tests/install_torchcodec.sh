#!/bin/bash
# Installs torchcodec, and the FFmpeg libraries that PyAV brings, into out/torchcodec, apart from the
# environment: transformers and datasets behave in another way where they find it. Tests that need it
# (tests/pipeline/dataset/test_open_decoded.py) are skipped without.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=out/torchcodec
mkdir -p "$folder/ffmpeg"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
    --target "$folder/packages" "torchcodec>=0.17,<0.18" "av>=18,<19"
# torchcodec asks for libavcodec.so.62; the files are called libavcodec-<hash>.so.62.28.102.
for file in "$folder"/packages/av.libs/lib{av,sw}*.so*; do
    name=$(basename "$file" | sed -E 's/-[0-9a-f]+\.so\.([0-9]+).*/.so.\1/')
    ln -sfn "../packages/av.libs/$(basename "$file")" "$folder/ffmpeg/$name"
done
echo "torchcodec is in $folder"
