#include "analysis/pruning/printed.hpp"

#include <cstdlib>
#include <sstream>

namespace ptq::report::printed {
namespace {

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

bool number(const std::string& text, double& value) {
  if (text == "nan") return value = NAN, true;
  char* end = nullptr;
  value = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0';
}

// What stands behind the first ": ".
std::string after_colon(const std::string& line) {
  const size_t at = line.find(": ");
  return at == line.npos ? std::string() : line.substr(at + 2);
}

// "KEY (words: 0.1234)" -> KEY and 0.1234.
void best_line(const std::string& line, std::string& key, double& value) {
  const std::string text = after_colon(line);
  const size_t open = text.rfind(" (");
  if (open == text.npos) return;
  key = text.substr(0, open);
  number(text.substr(text.rfind(' ') + 1, text.size() - text.rfind(' ') - 2), value);
}

class Reader {
 public:
  Pages pages;

  void read(const std::string& text) {
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) take(line);
  }

 private:
  void take(const std::string& line) {
    if (line.starts_with("=====")) {
      framed_ = !framed_;  // a title stands between two rules
      return;
    }
    if (framed_) return start(line);
    if (pages.models.empty() && !in_cross_) return;
    if (line.starts_with("──")) {
      section_framed_ = !section_framed_;
      return;
    }
    if (section_framed_) {
      const bool numbered = line.size() > 2 && line[0] >= '1' && line[0] <= '6' && line[1] == '.';
      section_ = numbered ? line[0] - '0' : 0;
      table_ = 0;
      return;
    }
    const std::vector<std::string> words = words_of(line);
    if (words.empty()) return;
    if (in_cross_) return cross_line(words);
    Model& model = pages.models.back();
    if (section_ < 0) counts(line, model);
    if (line.starts_with("-----")) {
      ++table_;
      return;
    }
    if (section_ >= 1 && section_ <= 4) table_line(line, words, model);
    if (section_ == 5 && line.find(": ") != line.npos) number(after_colon(line), model.ppl_r);
    if (section_ == 6) detail_line(line, words, model);
  }

  void start(const std::string& line) {
    const std::vector<std::string> words = words_of(line);
    in_cross_ = words.size() == 1 || words[0] == "Across";
    if (in_cross_) return;
    pages.models.push_back({});
    pages.models.back().name = words[0];
    section_ = -1;
  }

  static void counts(const std::string& line, Model& model) {
    std::vector<int64_t> numbers;
    for (const std::string& word : words_of(line)) {
      double value = 0;
      if (number(word.substr(0, word.find(',')), value)) numbers.push_back(int64_t(value));
    }
    if (numbers.size() != 3) return;
    model.total = numbers[0];
    model.valid = numbers[1];
    model.invalid = numbers[2];
    model.layers_r = NAN;
  }

  void table_line(const std::string& line, const std::vector<std::string>& words, Model& model) {
    const bool best = line.starts_with("✓");
    if (section_ == 1) {
      if (best) return best_line(line, model.best_method, model.best_acc);
      if (table_ == 1 && words.size() == 6) model.methods.push_back(full_row(words));
    } else if (section_ == 2) {
      // The heading above a table names its parameter.
      if (line.find("taylor_seq_len") != line.npos) seq_ = true;
      if (line.find("taylor_num_samples") != line.npos) seq_ = false;
      if (best) {
        return seq_ ? best_line(line, model.best_seq, model.best_seq_mean)
                    : best_line(line, model.best_samples, model.best_samples_mean);
      }
      double key = 0;
      if (words.size() == 4 && number(words[0], key)) {
        (seq_ ? model.seq_len : model.num_samples).push_back(short_row(words));
      }
    } else if (section_ == 3) {
      double r = 0;
      if (table_ == 1 && words.size() == 2 && number(words[1], r)) {
        model.correlations.push_back({words[0], r});
      }
    } else if (table_ == 0 && line.find(": ") != line.npos) {
      number(after_colon(line), model.layers_r);
    } else if (table_ == 1 && words.size() == 3) {
      Row row{words[0], 0, 0, 0, 0, std::atoll(words[2].c_str())};
      if (number(words[1], row.mean)) model.layers.push_back(row);
    }
  }

  static Row full_row(const std::vector<std::string>& words) {
    Row row{words[0], 0, 0, 0, 0, std::atoll(words[5].c_str())};
    number(words[1], row.mean);
    number(words[2], row.std);
    number(words[3], row.low);
    number(words[4], row.high);
    return row;
  }
  static Row short_row(const std::vector<std::string>& words) {
    Row row{words[0], 0, 0, 0, 0, std::atoll(words[3].c_str())};
    number(words[1], row.mean);
    number(words[2], row.std);
    return row;
  }

  static void detail_line(const std::string& line, const std::vector<std::string>& words,
                          Model& model) {
    double value = 0;
    if (words[0] == "•" && words.size() >= 4 && number(words.back(), value)) {
      model.tasks.push_back({words[1], value});
    } else if (line.starts_with("ACC mean: ")) {
      number(after_colon(line), model.section6_acc);
    } else if (line.starts_with("taylor_seq_len: ")) {
      model.section6_seq = after_colon(line);
    } else if (line.starts_with("taylor_num_samples: ")) {
      model.section6_samples = after_colon(line);
    } else if (line.starts_with("extreme_pruning_layers: ")) {
      model.section6_layers = after_colon(line);
    } else if (model.section6_method.empty() && line.find(": ") != line.npos) {
      model.section6_method = after_colon(line);
    }
  }

  void cross_line(const std::vector<std::string>& words) {
    CrossRow row;
    if (words.size() == 5 && number(words[2], row.acc) && words[2].find('.') != std::string::npos) {
      row.model = words[0];
      row.method = words[1];
      row.count = std::atoll(words[4].c_str());
      pages.cross.push_back(row);
    }
  }

  int section_ = -1, table_ = 0;
  bool seq_ = true, in_cross_ = false, framed_ = false, section_framed_ = false;
};

}  // namespace

Pages read(const std::string& text) {
  Reader reader;
  reader.read(text);
  return std::move(reader.pages);
}

}  // namespace ptq::report::printed
