#include "analysis/read/asked.hpp"

#include <algorithm>

#include "analysis/read/damage.hpp"
#include "analysis/read/records.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq::report {
namespace {

namespace fs = std::filesystem;

void add(const fs::path& file, std::vector<Asked>& all) {
  constexpr uint64_t kLargest = uint64_t{64} << 20;
  Json json;
  if (damage([&] { json = Json::parse(read_text_file(file, kLargest)); })) return;
  const auto text = [](const Json& value, const char* key) {
    const auto found = value.is_object() ? value.find(key) : value.end();
    return found != value.end() && found->is_string() ? one_line(found->get<std::string>())
                                                      : std::string();
  };
  // Of strings, or of objects with a name.
  const auto names = [&](const char* key) {
    std::vector<std::string> out;
    const Json list = json.is_object() ? json.value(key, Json()) : Json();
    if (!list.is_array()) return out;
    for (const Json& entry : list)
      out.push_back(entry.is_string() ? one_line(entry.get<std::string>()) : text(entry, "name"));
    return out;
  };
  const auto set = [&](const char* key) {
    const std::vector<std::string> list = names(key);
    return std::set<std::string>(list.begin(), list.end());
  };
  Asked asked{text(json, "name"), text(json, "baseline"), set("models"),
              set("methods"),     names("evaluations"),   set("cells")};
  const bool known = std::any_of(all.begin(), all.end(),
                                 [&](const Asked& other) { return other.name == asked.name; });
  if (asked.methods.empty() || known) return;
  all.push_back(std::move(asked));
}

}  // namespace

std::vector<Asked> read_asked(const fs::path& folder) {
  std::vector<Asked> all;
  add(folder / "experiment.json", all);
  std::vector<fs::path> files;
  std::error_code none;
  for (fs::directory_iterator at(folder / "experiments", none), end; !none && at != end;
       at.increment(none))
    files.push_back(at->path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) add(file, all);
  return all;
}

}  // namespace ptq::report
