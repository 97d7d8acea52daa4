# The shared libraries that programs carry to another machine; sourced by bundle.sh and device_archive.sh.
#
# The other machine needs a glibc at least as new as the newest symbol asked for, and the driver. The
# compiler's own libraries want the newest glibc of all, so they lie apart, in gcc/: the scripts that
# run there use them where the machine has none that are new enough.

# copy_libraries with|without FOLDER FILE...: copies what the loader finds for the files, also for
# libraries of libraries, into FOLDER. `without`: not the libraries of the CUDA toolkit, by far the
# largest part; their names and sizes are left in the variable `left`.
copy_libraries() {
  local cuda=$1 folder=$2 libraries name path
  shift 2
  libraries=$(ldd "$@" | awk '$2 == "=>" { print $1, $3 }' | sort -u)
  if grep -q ' not$' <<<"$libraries"; then  # "NAME => not found"
    echo "not found: $(sed -n 's/ not$//p' <<<"$libraries" | xargs)" >&2
    return 1
  fi
  left=
  mkdir -p "$folder/gcc"
  while read -r name path; do
    case $name in
      # Of glibc: what the kernel's loader and it must agree on. Of the driver: libcuda.
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | \
        libutil.so.* | ld-linux* | libcuda.so.*) continue ;;
      libcublas* | libcudart* | libnvrtc* | libnvJitLink*)
        if [ "$cuda" = without ]; then
          left="$left $name ($(($(stat -L -c %s "$path") / 1000000)) MB)"
          continue
        fi ;;
      libstdc++.so.* | libgcc_s.so.*)
        cp -L "$path" "$folder/gcc/$name"
        continue ;;
    esac
    cp -L "$path" "$folder/$name"
  done <<<"$libraries"
}

# newest PREFIX FILE...: the newest symbol version with the prefix that the files ask for.
newest() {
  local prefix=$1
  shift
  for f in "$@"; do objdump -T "$f"; done 2>/dev/null | grep 'UND' | grep -o "${prefix}_[0-9.]*" | sort -uV |
    tail -n 1 | sed "s/${prefix}_//"
}
