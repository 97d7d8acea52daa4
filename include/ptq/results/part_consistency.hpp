// Do the figures of a part of an evaluation - a depth, a task, a length, a subject - follow from
// the samples of that part?
#pragma once

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/results/violation.hpp"

namespace ptq::consistency_detail {

// Figures of a record that are means of those of its samples.
struct SampleMean {
  const char* key;
  bool by_tokens;  // with the samples' tokens as weights
};
inline constexpr std::array<SampleMean, 14> kSampleMeans = {{{"kl_mean", true},
                                                             {"top1_agreement", true},
                                                             {"acc", false},
                                                             {"acc_norm", false},
                                                             {"acc_bytes", false},
                                                             {"partial", false},
                                                             {"partial_reference", false},
                                                             {"answer_nll", false},
                                                             {"answer_nll_reference", false},
                                                             {"margin", false},
                                                             {"margin_reference", false},
                                                             {"lead", false},
                                                             {"lead_reference", false},
                                                             {"first_token_nll", false}}};

// Is a figure the mean of those samples that have it? There is no margin where a context holds no
// other value.
inline bool may_be_missing(std::string_view key) {
  return key.starts_with("margin") || key == "first_token_nll";
}

class Parts {
 public:
  explicit Parts(const Json& metrics) {
    if (!metrics.is_object()) return;
    for (const char* list : {"depths", "cells", "tasks", "lengths", "subjects"}) {
      const auto found = metrics.find(list);
      if (found == metrics.end() || !found->is_array()) continue;
      for (size_t i = 0; i < found->size(); ++i)
        if ((*found)[i].is_object())
          parts_.push_back(
              {&(*found)[i], "metrics." + std::string(list) + "[" + std::to_string(i) + "]"});
    }
  }

  void add(const simdjson::dom::object& sample) {
    for (Part& part : parts_) {
      if (part.unknown) continue;
      const Belongs belongs = belongs_to(part, sample);
      part.unknown = belongs == Belongs::unknown;
      if (belongs == Belongs::yes) part.add(sample);
    }
  }

  void compare(std::vector<Violation>& out) const {
    for (const Part& part : parts_) {
      if (part.unknown) continue;
      const auto equal = [&](const char* key, double right) {
        const auto value = number_at(*part.row, key);
        if (value && !agree(*value, right))
          out.push_back({part.path + "." + key, "is " + shown_number(*value) +
                                                    ", but that of its samples is " +
                                                    shown_number(right)});
      };
      equal("total", double(part.total));
      if (part.total == 0) continue;
      if (part.answers == part.total) equal("correct", double(part.correct));
      if (part.compared == part.total) {
        equal("accuracy_reference",
              double(part.correct + part.lost - part.gained) / double(part.total));
        equal("lost", double(part.lost));
        equal("gained", double(part.gained));
      }
      for (size_t i = 0; i < kSampleMeans.size(); ++i) {
        const char* key = kSampleMeans[i].key;
        if (part.counts[i] == part.total || (part.counts[i] > 0 && may_be_missing(key)))
          equal(key, part.sums[i] / double(part.counts[i]));
      }
      if (part.shortest <= part.longest) {
        equal("prompt_tokens_min", part.shortest);
        equal("prompt_tokens_max", part.longest);
      }
    }
  }

 private:
  struct Part {
    const Json* row;
    std::string path;
    bool unknown = false;  // samples do not say whether they belong to it
    int64_t total = 0, answers = 0, compared = 0, correct = 0, lost = 0, gained = 0;
    std::array<double, kSampleMeans.size()> sums{};
    std::array<int64_t, kSampleMeans.size()> counts{};  // of those by tokens: none
    double shortest = HUGE_VAL, longest = -HUGE_VAL;    // of the prompts, tokens

    void add(const simdjson::dom::object& sample) {
      ++total;
      bool own = false, reference = false;
      if (sample["correct"].get(own) == simdjson::SUCCESS) {
        ++answers;
        correct += own;
        if (sample["correct_reference"].get(reference) == simdjson::SUCCESS) {
          ++compared;
          lost += reference && !own;
          gained += own && !reference;
        }
      }
      double figure = 0;
      if (sample["tokens"].get(figure) == simdjson::SUCCESS) {
        shortest = std::min(shortest, figure);
        longest = std::max(longest, figure);
      }
      for (size_t i = 0; i < kSampleMeans.size(); ++i) {
        if (kSampleMeans[i].by_tokens || sample[kSampleMeans[i].key].get(figure)) continue;
        sums[i] += figure;
        ++counts[i];
      }
    }
  };

  enum class Belongs { yes, no, unknown };
  // What a part is of is what it and its samples are called.
  static Belongs belongs_to(const Part& part, const simdjson::dom::object& sample) {
    bool named = false;
    for (const char* key : {"task", "haystack", "length", "depth", "subject"}) {
      const auto of = part.row->find(key);
      if (of == part.row->end() || of->is_null()) continue;
      named = true;
      double number = 0;
      std::string_view word;
      if (of->is_number()) {
        if (sample[key].get(number) != simdjson::SUCCESS) return Belongs::unknown;
        if (number != of->get<double>()) return Belongs::no;
      } else if (of->is_string()) {
        if (sample[key].get(word) != simdjson::SUCCESS) return Belongs::unknown;
        if (word != of->get_ref<const std::string&>()) return Belongs::no;
      }
    }
    return named ? Belongs::yes : Belongs::unknown;
  }

  std::vector<Part> parts_;
};

}  // namespace ptq::consistency_detail
