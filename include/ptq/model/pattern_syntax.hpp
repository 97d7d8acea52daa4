// The regular expressions of tokenizer.json are those of Oniguruma (Ruby's syntax); PCRE2 reads
// another dialect. This file writes the one in the other. What cannot be written, or would silently
// mean something else, is an error that names the construct.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/model/newer_characters.hpp"
#include "ptq/model/unicode.hpp"

namespace ptq {

class PatternTranslator {
 public:
  // The pattern for PCRE2 with the options UTF, UCP and MULTILINE; `newer`: for texts with
  // characters that PCRE2 does not know, see newer_characters.hpp. Throws an Error that gives the
  // reason.
  static std::string translate(std::string_view pattern, bool newer) {
    return PatternTranslator(pattern, newer).run();
  }

 private:
  // A set of characters as the inside of a class. A single property can also be negated there.
  struct Set {
    std::string items;
    bool negated = false;
    std::string property{};  // its name, if the set is nothing else
    std::string without{};   // characters that are not in it, though they are among the items

    // The set as a part of the pattern that matches one character.
    std::string alone() const {
      if (!property.empty()) return inside();
      if (without.empty()) return (negated ? "[^" : "[") + items + "]";
      return negated ? "(?:[" + without + "]|[^" + items + "])"
                     : "(?:(?![" + without + "])[" + items + "])";
    }
    // The set among the items of a class; "" if it must be a class of its own there.
    std::string inside() const {
      if (!property.empty()) return (negated ? "\\P{" : "\\p{") + property + "}";
      return negated || !without.empty() ? "" : items;
    }
  };

  // What Oniguruma takes as a word character outside of a class, but not in one: superscripts and
  // fractions of Latin-1.
  static constexpr std::string_view kMoreWord = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
  static constexpr int kDeepestClass = 16;

  PatternTranslator(std::string_view pattern, bool newer) : in_(pattern), newer_(newer) {}

  bool ended() const { return at_ >= in_.size(); }
  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }

  // The newer characters of general categories, which are given by their first letters.
  std::string newer_of(std::initializer_list<std::string_view> categories) const {
    if (!newer_) return "";
    return newer_ranges([&](const NewerCharacters& row) {
      return std::any_of(categories.begin(), categories.end(),
                         [&](std::string_view c) { return row.category.starts_with(c); });
    });
  }

  // A property of PCRE2 and the newer characters that have it. The property stands last, so that a
  // hyphen behind it is no range.
  static Set set_of(std::string_view property, const std::string& newer, bool negated) {
    const std::string name(property);
    return {newer + "\\p{" + name + "}", negated, newer.empty() ? name : ""};
  }

  // Unicode 16 has marks among them that older versions had not.
  Set alphabetic(bool negated) const {
    static constexpr const char* kMarks =
        R"(\x{363}-\x{36F}\x{897}\x{C04}\x{CF3}\x{F82}-\x{F83}\x{1DD3}-\x{1DE6}\x{10D69}\x{10EFC})"
        R"(\x{11080}-\x{11081}\x{11241}\x{113B8}-\x{113C0}\x{113C2}\x{113C5}\x{113C7}-\x{113CA})"
        R"(\x{113CC}-\x{113CD}\x{11F00}-\x{11F01}\x{11F03}\x{11F34}-\x{11F3A}\x{11F3E}-\x{11F40})"
        R"(\x{1611E}-\x{1612E}\x{1E08F})";
    return set_of("Alphabetic", kMarks + newer_of({"L"}), negated);
  }

  // \w in a class.
  Set word(bool negated) const {
    return {newer_of({"L", "M", "Nd", "Pc"}) + R"(\p{M}\p{Nd}\p{Pc}\p{Alphabetic})", negated};
  }
  Set word_outside(bool negated) const {
    Set set = word(negated);
    set.items.insert(0, kMoreWord);
    return set;
  }

  std::string run() {
    if (take("(?i)")) out_ += "(?i)";  // elsewhere its reach differs
    while (!ended()) {
      const char c = in_[at_];
      if (c == '\\') {
        out_ += escape();
      } else if (c == '[') {
        ++at_;
        out_ += bracket_class(0);
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        repetition();
      } else {
        out_ += c;
        ++at_;
      }
    }
    return out_;
  }

  // An opening parenthesis with what belongs to it.
  void group() {
    for (const std::string_view same : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (take(same)) {
        out_ += same;
        return;
      }
    }
    if (take("(?i:")) {
      out_ += "(?i:";
    } else if (take("(?-i:")) {
      out_ += "(?-i:";
    } else if (take("(?m:")) {  // here: the dot matches newlines too
      out_ += "(?s:";
    } else if (next_is("(?") || next_is("(*")) {
      throw usage_error("the group `" + std::string(in_.substr(at_, 4)) + "...` is not supported");
    } else {
      ++at_;
      out_ += '(';
    }
  }

  // {n}, {n,}, {n,m} and {,m}; any other brace stands for itself.
  void repetition() {
    size_t i = at_ + 1;
    const auto digits = [&] {
      const size_t begin = i;
      while (i < in_.size() && in_[i] >= '0' && in_[i] <= '9') ++i;
      return in_.substr(begin, i - begin);
    };
    const std::string_view low = digits();
    const bool range = i < in_.size() && in_[i] == ',';
    if (range) ++i;
    const std::string_view high = range ? digits() : low;
    const bool closed = i < in_.size() && in_[i] == '}' && (!low.empty() || !high.empty());
    if (!closed) {
      out_ += "\\{";
      ++at_;
      return;
    }
    at_ = i + 1;
    if (next_is("+") || (!range && next_is("?"))) {
      throw usage_error(std::string("`{...}") + in_[at_] +
                        "` means different things to different libraries");
    }
    out_ += '{';
    out_ += low.empty() ? "0" : low;
    if (range) (out_ += ',') += high;
    out_ += '}';
  }

  [[noreturn]] void unsupported_escape(size_t begin) const {
    size_t end = begin + 1;
    if (end < in_.size()) next_code_point(in_, end);
    throw usage_error("the escape `" + std::string(in_.substr(begin, end - begin)) +
                      "` is not supported");
  }

  // An escape that stands for one character; "" if it does not, with nothing taken.
  std::string character_escape() {
    const size_t begin = at_++;
    if (ended()) throw usage_error("the pattern ends with a backslash");
    const char c = in_[at_];
    if (static_cast<uint8_t>(c) >= 0x80) {  // the character itself
      const size_t first = at_;
      next_code_point(in_, at_);
      return std::string(in_.substr(first, at_ - first));
    }
    ++at_;
    const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    if (!letter && !(c >= '0' && c <= '9')) return {'\\', c};
    switch (c) {
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e': return {'\\', c};
      case 'v': return "\\x0B";
      case 'x':
      case 'u': return code_point(c, begin);
      default: at_ = begin; return "";
    }
  }

  // An escape that stands for a set, other than \w and \W; nothing taken if it is none.
  std::optional<Set> set_escape() {
    const char c = in_[at_ + 1];
    switch (c) {
      case 'd':
      case 'D': at_ += 2; return set_of("Nd", newer_of({"Nd"}), c == 'D');
      case 's':
      case 'S': at_ += 2; return set_of("White_Space", "", c == 'S');
      case 'h':
      case 'H': at_ += 2; return Set{"0-9a-fA-F", c == 'H'};
      case 'p':
      case 'P': at_ += 2; return property(c);
      default: return {};
    }
  }

  // An escape outside of a class.
  std::string escape() {
    const size_t begin = at_;
    if (std::string character = character_escape(); !character.empty()) return character;
    if (const auto set = set_escape()) return set->alone();
    const char c = in_[at_ + 1];
    at_ += 2;
    switch (c) {
      case 'w':
      case 'W': return word_outside(c == 'W').alone();
      case 'b':
      case 'B': {
        const std::string in = word_outside(false).alone(), not_before = "(?<!" + in + ")",
                          before = "(?<=" + in + ")", after = "(?=" + in + ")",
                          not_after = "(?!" + in + ")";
        return c == 'b' ? "(?:" + before + not_after + "|" + not_before + after + ")"
                        : "(?:" + before + after + "|" + not_before + not_after + ")";
      }
      case 'R': return R"((?>\x0D\x0A|[\x0A-\x0D\x{85}\x{2028}\x{2029}]))";
      case 'A':
      case 'z':
      case 'Z': return {'\\', c};
      default:
        if (c >= '1' && c <= '9') return {'\\', c};
        unsupported_escape(begin);
    }
  }

  // The rest of \p or \P.
  Set property(char kind) {
    if (!take("{")) throw usage_error(std::string("`\\") + kind + "` needs a name in braces");
    const size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) throw usage_error("a brace of `\\p{` is not closed");
    std::string name(in_.substr(at_, end - at_));
    at_ = end + 1;
    bool negated = kind == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.erase(0, 1);
    }
    for (const char c : name) {
      const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
      if (!letter && c != '_') throw usage_error("the property `" + name + "` is not supported");
    }
    static constexpr std::string_view kLongNames[][2] = {{"Letter", "L"}, {"Mark", "M"},
                                                         {"Number", "N"}, {"Punctuation", "P"},
                                                         {"Symbol", "S"}, {"Digit", "Nd"}};
    for (const auto& [theirs, ours] : kLongNames) {
      if (name == theirs) name = ours;
    }
    if (name == "Alphabetic" || name == "Alpha") return alphabetic(negated);
    if (name == "White_Space" || name == "Space") return set_of("White_Space", "", negated);
    static constexpr std::array<std::string_view, 37> kCategories = {
        "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
        "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
        "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
    if (std::find(kCategories.begin(), kCategories.end(), name) != kCategories.end()) {
      Set set = set_of(name, newer_of({name}), negated);
      if (newer_ && (name == "C" || name == "Cn")) {  // to PCRE2 they are unassigned
        set.property.clear();
        set.without = newer_of({"L", "M", "N", "P", "S", "Z"});
        if (name == "Cn") set.without += newer_of({"Cf"});
      }
      if (newer_ && name == "Mn") {
        set.property.clear();
        set.without = R"(\x{1171E})";  // an Mc now
      }
      return set;
    }
    const std::string newer =
        !newer_ ? "" : newer_ranges([&](const NewerCharacters& row) { return row.script == name; });
    return set_of("sc:" + name, newer,
                  negated);  // plain \p{Han} asks PCRE2 for more than the script
  }

  // The rest of \xHH, \x{H...} or \uHHHH.
  std::string code_point(char kind, size_t begin) {
    size_t count = kind == 'u' ? 4 : 2;
    const bool braces = kind == 'x' && take("{");
    if (braces) count = 6;
    std::string digits;
    while (!ended() && digits.size() < count && std::isxdigit(static_cast<uint8_t>(in_[at_]))) {
      digits += in_[at_++];
    }
    const bool complete = braces ? !digits.empty() && take("}") : digits.size() == count;
    // A byte above 0x7F is a part of a character there.
    if (!complete || (kind == 'x' && !braces && digits[0] >= '8')) unsupported_escape(begin);
    return "\\x{" + digits + "}";
  }

  // A class behind its bracket: a union of single items and of classes, or an intersection (&&) of
  // such. One character is matched in any case.
  std::string bracket_class(int depth) {
    if (depth > kDeepestClass) throw usage_error("too many classes in classes");
    const bool negated = take("^");
    if (next_is("]")) throw usage_error("a class begins with `]`");
    std::vector<std::string> operands;
    std::string items;
    std::vector<std::string> inner;
    const auto finish_operand = [&] {
      if (items.empty() && inner.empty()) throw usage_error("a side of `&&` is empty");
      std::string all = items.empty() ? "" : "[" + items + "]";
      for (const std::string& one : inner) (all += all.empty() ? "" : "|") += one;
      operands.push_back(inner.size() + (items.empty() ? 0 : 1) > 1 ? "(?:" + all + ")" : all);
    };
    for (bool set_before = false;;) {
      if (ended()) throw usage_error("a class is not closed");
      if (take("]")) break;
      if (take("&&")) {
        finish_operand();
        items.clear();
        inner.clear();
        set_before = false;
      } else if (next_is("[:")) {
        add(posix_class(), items, inner);
        set_before = true;
      } else if (take("[")) {
        inner.push_back(bracket_class(depth + 1));
      } else if (in_[at_] == '-') {
        ++at_;
        // Behind a set a hyphen is no range, nor is the last or first one.
        const bool literal = set_before || items.empty() || next_is("]") || next_is("&&");
        items += literal ? "\\-" : "-";
      } else if (in_[at_] == '\\') {
        set_before = class_escape(items, inner);
      } else {
        size_t end = at_;
        next_code_point(in_, end);
        items += in_.substr(at_, end - at_);
        at_ = end;
        set_before = false;
      }
    }
    if (operands.empty() && inner.empty()) return (negated ? "[^" : "[") + items + "]";
    finish_operand();
    std::string result = "(?:";
    for (size_t i = 0; i + 1 < operands.size(); ++i) result += "(?=" + operands[i] + ")";
    result += operands.back() + ")";
    return negated ? "(?:(?!" + result + ")(?s:.))" : result;
  }

  // An escape in a class; true if it was a set.
  bool class_escape(std::string& items, std::vector<std::string>& inner) {
    const size_t begin = at_;
    if (const std::string character = character_escape(); !character.empty()) {
      items += character;
      return false;
    }
    std::optional<Set> set = set_escape();
    const char c = in_[begin + 1];
    if (!set) {
      at_ += 2;
      if (c == 'b') {
        items += "\\x08";
        return false;
      }
      if (c != 'w' && c != 'W') unsupported_escape(begin);
      set = word(c == 'W');
    }
    add(*set, items, inner);
    return true;
  }

  static void add(const Set& set, std::string& items, std::vector<std::string>& inner) {
    if (const std::string inside = set.inside(); !inside.empty()) {
      items += inside;
    } else {
      inner.push_back(set.alone());
    }
  }

  // [:name:] in a class.
  Set posix_class() {
    if (take("[:alpha:]")) return alphabetic(false);
    if (take("[:digit:]")) return set_of("Nd", newer_of({"Nd"}), false);
    if (take("[:space:]")) return set_of("White_Space", "", false);
    if (take("[:word:]")) return word(false);
    throw usage_error("the class `" + std::string(in_.substr(at_, 9)) + "` is not supported");
  }

  std::string_view in_;
  bool newer_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace ptq
