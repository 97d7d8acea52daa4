// Templates and filters of task descriptions.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "ptq/tasks/text.hpp"

using namespace ptq;
using namespace ptq::tasks;

namespace {

std::string rendered(const std::string& text, const Json& row) {
  return Template(text, "test").render(row).value_or("(nothing)");
}

}  // namespace

TEST_CASE("templates take fields of the row, at any depth, through filters", "[tasks]") {
  const Json row = parse_json(
      R"({"a": "x_y", "n": 3, "q": {"stem": " why ", "c": [{"t": "one"}, {"t": "two"}]}})", "row");
  CHECK(rendered("{a}|{n}|{q.stem|strip}?", row) == "x_y|3|why?");
  CHECK(rendered("{q.c.1.t}", row) == "two");
  CHECK(rendered("{{a}} {a|spaces}", row) == "{a} x y");
  CHECK(rendered("{a|before:_}-{a|after:_}", row) == "x-y");
  CHECK(rendered("{absent}", row) == "(nothing)");
  CHECK(rendered("{q.c.2.t}", row) == "(nothing)");
  CHECK(Source("q.c[].t", "test").texts(row) == std::vector<std::string>{"one", "two"});
  CHECK_FALSE(Source("q.c[].absent", "test").texts(row));
  CHECK_THROWS_WITH(Template("{a", "form"), Catch::Contains("no partner"));
  CHECK_THROWS_WITH(Template("{a|stripp}", "form"), Catch::Contains("did you mean `strip`?"));
  CHECK_THROWS_WITH(Template("{a|before}", "form"), Catch::Contains("behind a colon"));
}

TEST_CASE("capitalize, strip and the cleaning of HellaSwag are Python's", "[tasks]") {
  // Python 3.11: 'x'.capitalize(), with letters beyond ASCII.
  CHECK(capitalized("he Sees NASA") == "He sees nasa");
  CHECK(capitalized("\xC3\x9F"
                    "A") == "Ssa");
  CHECK(capitalized("\xC7\x86x") == "\xC7\x85x");                  // U+01C6 to U+01C5
  CHECK(capitalized("a\xCE\x91\xCE\xA3") == "A\xCE\xB1\xCF\x82");  // a final sigma
  CHECK(capitalized("a\xCE\xA3\xCE\x91") == "A\xCF\x83\xCE\xB1");  // and another
  CHECK(capitalized("").empty());
  CHECK(stripped_text("\x1C\xC2\xA0 a b\xE2\x80\x89\x1F\n") == "a b");
  CHECK(hellaswag_text(" [header] How to [title] do  it   well [step] now [ open\nline]  ") ==
        " How to. do it  well now [ open\nline]");
}
