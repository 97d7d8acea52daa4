# The fields of all structs of a preprocessed plugin.h (cc -E -P), one "struct field" a line.
# There are no structs within structs, so a field ends at each semicolon.
{ text = text " " $0 }
END {
  gsub(/[ \t]+/, " ", text)
  while (match(text, /struct ptq_[a-z_]+ \{[^}]*\}/)) {
    body = substr(text, RSTART + 7, RLENGTH - 8)
    text = substr(text, RSTART + RLENGTH)
    name = body
    sub(/ .*/, "", name)
    sub(/^[^{]*\{/, "", body)
    n = split(body, statements, ";")
    for (i = 1; i < n; ++i) {
      if (match(statements[i], /\(\*[a-z_0-9]+\)/)) {  # a pointer to a function
        print name, substr(statements[i], RSTART + 2, RLENGTH - 3)
        continue
      }
      m = split(statements[i], declarators, ",")
      for (j = 1; j <= m; ++j) {
        field = declarators[j]
        sub(/\[.*/, "", field)  # of an array
        sub(/ +$/, "", field)
        sub(/.*[ *]/, "", field)
        print name, field
      }
    }
  }
}
