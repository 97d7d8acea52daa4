// The description of a task, behind a NUL byte rows of its data, behind another an answer.
#include "ptq/tasks/rows.hpp"
#include "test/fuzz/targets.hpp"

namespace ptq::fuzz {
namespace {

void check_answer(const tasks::AnswerRules& rules, const std::string& answer) {
  const std::string cut = rules.cut(answer);
  require(answer.starts_with(cut), "a stop shortens");
  require(rules.ended(answer) == (cut.size() < answer.size()), "a stop ends");
  if (!is_utf8(cut)) return;  // patterns search texts
  for (const tasks::AnswerFilter& filter : rules.filters) {
    const std::string taken = filter.apply(cut);
    require(is_utf8(taken), "what is taken is UTF-8");
    require(rules.equal(taken, taken), "an answer equals itself");
  }
}

}  // namespace

bool task(Bytes input) {
  std::string_view rest = text_of_bytes(input);
  const std::filesystem::path description = scratch_file("task.toml", next_part(rest));
  const std::string rows = scratch_file("rows.jsonl", next_part(rest)).string();
  return accepts([&] {
    const tasks::TaskDescription task = tasks::read_task(description);
    require(!task.forms.empty() && !task.rules.filters.empty(), "there are forms and filters");
    accepts([&] { check_answer(task.rules, std::string(rest)); });
    for (const int64_t fewshot : {0, 1, 2}) {
      accepts([&] {
        for (const tasks::Item& item :
             tasks::read_items(task, {"task", rows, "", rows}, fewshot, {})) {
          const tasks::Question& q = item.question;
          require(q.gold >= 0 && size_t(q.gold) < q.choices.size(), "the right answer is a choice");
          require(is_utf8(item.block) && is_utf8(item.subject), "texts are UTF-8");
          for (size_t c = 0; c < q.choices.size(); ++c)
            require(is_utf8(q.context(c)) && is_utf8(q.continuation(c)) && is_utf8(q.choices[c]),
                    "texts are UTF-8");
        }
      });
    }
  });
}

}  // namespace ptq::fuzz
