// ptq-host tokenize: text to ids and back, with tokenizer.json alone.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>

#include "host/arguments.hpp"
#include "host/commands/commands.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/data/text.hpp"
#include "ptq/model/load_tokenizer.hpp"
#include "ptq/run/locate.hpp"

namespace ptq {
namespace {

constexpr const char* kTokenizeHelp =
    R"(Turns text into token ids, or ids into text.

  echo 'The passkey is 71432.' | ptq-host tokenize --model models/tiny-qwen2
  ptq-host tokenize --model models/tiny-qwen2 --text datasets/embedded/test.txt > ids.json

usage: ptq-host tokenize --model DIR [--text FILE] [--no-special] [--decode]

  --model DIR   a folder with tokenizer.json, nothing else is read; a GGUF file; or the id of a model
                that was downloaded
  --text FILE   the whole file as one text, one JSON array; without it every line of the standard
                input is a text of its own, one JSON array per line
  --no-special  without the tokens that the tokenizer adds around a text; with --decode, leave out
                control tokens
  --decode      each line holds ids, as a JSON array or separated by spaces or commas; prints text
)";

std::vector<int32_t> parse_ids(std::string line, const std::string& where) {
  for (char& c : line) c = c == ',' || c == '[' || c == ']' || c == '\r' ? ' ' : c;
  std::vector<int32_t> ids;
  const char* at = line.c_str();
  for (;;) {
    while (*at == ' ' || *at == '\t') ++at;
    if (*at == 0) return ids;
    char* end = nullptr;
    const long long id = std::strtoll(at, &end, 10);
    if (end == at || id < 0 || id > std::numeric_limits<int32_t>::max() ||
        (*end != ' ' && *end != '\t' && *end != 0)) {
      throw usage_error("`" + std::string(at).substr(0, 20) + "` is not a token id", where,
                        "write ids as [1, 2, 3]");
    }
    ids.push_back(int32_t(id));
    at = end;
  }
}

// The ids of a line that have a text. A model may choose others (holes of the vocabulary, padding
// rows), which are named on the standard error and have none.
std::vector<int32_t> known_ids(const Tokenizer& tokenizer, const std::string& line,
                               const std::string& where) {
  std::vector<int32_t> known;
  std::string unknown;
  for (const int32_t id : parse_ids(line, where)) {
    if (tokenizer.exists(id)) {
      known.push_back(id);
    } else {
      unknown += (unknown.empty() ? "" : ", ") + std::to_string(id);
    }
  }
  if (!unknown.empty()) fmt::print(stderr, "note: {}: no token has the id {}\n", where, unknown);
  return known;
}

}  // namespace

int tokenize_command(const std::vector<std::string>& args) {
  if (wants_help(args, kTokenizeHelp)) return 0;
  namespace po = boost::program_options;
  Options options;
  auto add = options.add_options();
  add("model", po::value<std::string>())("text", po::value<std::string>());
  add("no-special", po::bool_switch())("decode", po::bool_switch());
  const Arguments arguments = parse_arguments(args, options);
  if (arguments.count("model") == 0) {
    throw usage_error("no model is given", "", "ptq-host tokenize --model models/tiny-qwen2");
  }
  const Tokenizer tokenizer =
      load_tokenizer(find_model(text_of(arguments, "model"), {working_folder()}, "--model").folder);
  const bool special = !arguments["no-special"].as<bool>();
  const bool decode = arguments["decode"].as<bool>();
  const std::string path = text_of(arguments, "text");
  if (!path.empty() && !decode) {
    fmt::print("{}\n", Json(tokenizer.encode(read_utf8_file(path), special)).dump());
    return 0;
  }
  std::ifstream file;
  if (!path.empty()) {
    file.open(path);
    if (!file) throw environment_error("cannot read the file", path);
  }
  std::istream& in = path.empty() ? std::cin : file;
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    const std::string where =
        (path.empty() ? "standard input" : path) + ", line " + std::to_string(++number);
    try {
      if (decode) {
        fmt::print("{}\n", tokenizer.decode(known_ids(tokenizer, line, where), !special));
      } else {
        fmt::print("{}\n", Json(tokenizer.encode(line, special)).dump());
      }
    } catch (const Error& error) {
      throw error.where().empty() ? error.at(where) : error;
    }
  }
  return 0;
}

}  // namespace ptq
