// The option builder of plugin.hpp: one line declares an option, as plugin.h wants it, and reads
// it.
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "ptq/plugin.hpp"

namespace ptq::test {
namespace {

using plugin::About;
using plugin::Call;
using plugin::Invalid;
using plugin::Options;

// What a user chose, as the host's service hands it out.
const ptq_options_service kChosen = {
    sizeof(ptq_options_service), 0,
    [](const ptq_call*, const char* name) -> int64_t {
      return std::strcmp(name, "bits") == 0 ? 8 : std::strcmp(name, "rotate") == 0 ? 1 : 0;
    },
    [](const ptq_call*, const char*) { return 0.25; },
    [](const ptq_call*, const char*) -> const char* { return "token"; }};

ptq_call call_of_create() {
  ptq_call call{};
  call.struct_size = sizeof call;
  call.fail = [](const ptq_call*, ptq_status status, const char*) { return status; };
  call.service = [](const ptq_call*, const char* id) -> const void* {
    return std::strcmp(id, PTQ_OPTIONS_1) == 0 ? &kChosen : nullptr;
  };
  return call;
}

class OptionMethod {
 public:
  static constexpr About about = {"method", "1.0.0", "for this test", ""};

  explicit OptionMethod(Options& o) {
    o.integer("bits", bits, "bits per code").among({2, 8});
    o.integer("window", window, "newest rows").between(-1, 64);
    o.number("energy", energy, "share that is kept").between(0.01, 1);
    o.word("axis", axis, "what shares a scale", {{"channel", 0}, {"token", 1}});
    o.flag("rotate", rotate, "rows are rotated");
    o.text("note", note, "for the record");
    if (bits == 2) throw Invalid("these defaults do not go together");
  }
  void encode(const Call&, const ptq_linear&, ptq_encoding*) {}

  int bits = 2, axis = 0;
  int64_t window = -1;
  double energy = 0.95;
  bool rotate = false;
  std::string note = "none";
};

std::vector<std::string> allowed(const ptq_option& option) {
  std::vector<std::string> out;
  for (const char* const* a = option.allowed; a && *a; ++a) out.push_back(*a);
  return out;
}

}  // namespace

TEST_CASE("an option is described to the host with its default, bounds and words", "[plugin]") {
  const ptq_method& method = *plugin::Tables<OptionMethod>::method();
  REQUIRE(method.n_options == 6);
  struct Row {
    int32_t type;
    std::string name, value, help;
    double min, max;
    std::vector<std::string> allowed;
  };
  const std::vector<Row> want = {
      {PTQ_OPTION_INT, "bits", "2", "bits per code", 0, 0, {"2", "8"}},
      {PTQ_OPTION_INT, "window", "-1", "newest rows", -1, 64, {}},
      {PTQ_OPTION_FLOAT, "energy", "0.95", "share that is kept", 0.01, 1, {}},
      {PTQ_OPTION_STRING,
       "axis",
       "\"channel\"",
       "what shares a scale",
       0,
       0,
       {"\"channel\"", "\"token\""}},
      {PTQ_OPTION_BOOL, "rotate", "false", "rows are rotated", 0, 0, {}},
      {PTQ_OPTION_STRING, "note", "\"none\"", "for the record", 0, 0, {}}};
  for (size_t i = 0; i < want.size(); ++i) {
    const ptq_option& option = *method.options[i];
    INFO(want[i].name);
    CHECK(option.struct_size == sizeof(ptq_option));
    CHECK(option.type == want[i].type);
    CHECK(option.name == want[i].name);
    CHECK(option.default_value == want[i].value);
    CHECK(option.help == want[i].help);
    CHECK(option.min == want[i].min);
    CHECK(option.max == want[i].max);
    CHECK(allowed(option) == want[i].allowed);
  }
}

TEST_CASE("the line that declares an option reads what the user chose", "[plugin]") {
  const ptq_call call = call_of_create();
  Options options(&call);
  const OptionMethod method(options);
  CHECK(method.bits == 8);
  CHECK(method.window == 0);
  CHECK(method.energy == 0.25);
  CHECK(method.axis == 1);
  CHECK(method.rotate);
  CHECK(method.note == "token");
}

TEST_CASE("an instance is made from the options of its call", "[plugin]") {
  const ptq_call call = call_of_create();
  const ptq_method& table = *plugin::Tables<OptionMethod>::method();
  void* instance = nullptr;
  REQUIRE(table.create(&call, "{}", &instance) == PTQ_OK);
  CHECK(static_cast<OptionMethod*>(instance)->bits == 8);
  table.destroy(instance, &call);
}

}  // namespace ptq::test
