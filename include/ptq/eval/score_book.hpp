// Scores that an evaluation has, in a file that grows while it goes on: one that was interrupted
// continues behind them, and those of the reference serve all cells that are held against it.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ptq/core/atomic_file.hpp"
#include "ptq/core/hash.hpp"
#include "ptq/core/json_number.hpp"
#include "ptq/core/mapped_file.hpp"
#include "ptq/core/own_json.hpp"
#include "ptq/engine/counts.hpp"
#include "ptq/eval/choice_requests.hpp"

namespace ptq::eval {

struct ChoiceScore {
  double log_prob = 0;  // nats, summed over the tokens of the continuation
  bool greedy = true;   // is each of them the most likely one?
};

// What came of one context; scores are in the order of its continuations. Without these an answer
// was written.
struct ScoredContext {
  std::vector<ChoiceScore> scores;
  std::vector<int32_t> written;  // tokens, where the answer is not chosen
  CacheBytes bytes;              // behind the context and what was written
  CacheReads reads;              // of the queries that count
  double seconds = 0;  // in the engine, without the scoring; of a batch the first context has all
};

// A line for each context, under a hash of its tokens; in one file are scores of one model, method
// and evaluation only. Lines are not synced: a loss of power costs the last of them.
class ScoreBook {
 public:
  enum class Use { read, extend };  // read: what is added is forgotten

  // Reads a file; to extend it, it need not be there yet. A last line that was cut is dropped, and
  // so is everything from the first one on that is damaged.
  // Errors: the file cannot be read or written.
  ScoreBook(std::filesystem::path file, Use use) : file_(std::move(file)) {
    std::error_code ignored;
    uint64_t whole = 0;
    if (use == Use::read || std::filesystem::exists(file_, ignored)) whole = read();
    if (use == Use::read) return;
    // Another cell's end may remove the folder as long as nothing is in it.
    for (int attempt = 0; attempt < 5 && fd_ < 0; ++attempt) {
      if (!file_.parent_path().empty()) make_folders(file_.parent_path());
      fd_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
      if (fd_ < 0 && errno != ENOENT) break;
    }
    if (fd_ < 0) throw file_error("cannot write the file", file_, errno);
    if (::ftruncate(fd_, off_t(whole)) != 0)
      throw file_error("cannot shorten the file", file_, errno);
  }
  ScoreBook(const ScoreBook&) = delete;
  ScoreBook& operator=(const ScoreBook&) = delete;
  ~ScoreBook() {
    if (fd_ >= 0) ::close(fd_);
  }

  size_t size() const { return lines_.size(); }

  // nullptr: not there.
  const ScoredContext* find(const ContextRequest& request) const {
    const auto found = lines_.find(key(request));
    return found == lines_.end() ? nullptr : &found->second;
  }

  void add(std::span<const ContextRequest* const> requests,
           std::span<const ScoredContext> contexts) {
    if (fd_ < 0) return;
    std::string text;
    for (size_t i = 0; i < requests.size(); ++i) {
      const std::string name = key(*requests[i]);
      text += json_text(to_json(name, contexts[i])) + "\n";
      lines_.emplace(name, contexts[i]);
    }
    if (const int error = write_all(fd_, text)) throw file_error("cannot write", file_, error);
  }

 private:
  static std::string key(const ContextRequest& request) {
    Sha256 hash;
    const auto add = [&](const std::vector<int32_t>& tokens) {
      hash.update(std::to_string(tokens.size()) + ":");
      hash.update({reinterpret_cast<const char*>(tokens.data()), 4 * tokens.size()});
    };
    add(request.context);
    for (const ContextRequest::Continuation& c : request.continuations) add(c.tokens);
    return hash.hex();
  }

  static Json to_json(const std::string& name, const ScoredContext& context) {
    Json scores = Json::array();
    for (const ChoiceScore& score : context.scores)
      scores.push_back({score.log_prob, score.greedy});
    const CacheBytes& b = context.bytes;
    const CacheReads& r = context.reads;
    return {{"key", name},
            {"scores", std::move(scores)},
            {"written", context.written},
            {"bytes",
             {b.encoded, b.window, b.sink, b.reserved, b.tokens, b.scalars, b.encoded_is_dense}},
            {"reads",
             {r.encoded[0], r.encoded[1], r.total[0], r.total[1], r.share_sum[0], r.share_sum[1],
              r.queries}},
            {"seconds", context.seconds}};
  }

  static ScoredContext from_json(const Json& json, const std::string& where) {
    ScoredContext context;
    for (const Json& score : json.at("scores"))
      context.scores.push_back({score.at(0).get<double>(), score.at(1).get<bool>()});
    for (const Json& token : json.at("written"))
      context.written.push_back(json_integer<int32_t>(token, where));
    const auto get = [&](const Json& list, size_t i, auto& value) {
      using T = std::decay_t<decltype(value)>;
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
        value = json_integer<T>(list.at(i), where);
      else
        list.at(i).get_to(value);
    };
    CacheBytes& b = context.bytes;
    const Json& bytes = json.at("bytes");
    get(bytes, 0, b.encoded);
    get(bytes, 1, b.window);
    get(bytes, 2, b.sink);
    get(bytes, 3, b.reserved);
    get(bytes, 4, b.tokens);
    get(bytes, 5, b.scalars);
    get(bytes, 6, b.encoded_is_dense);
    CacheReads& r = context.reads;
    const Json& reads = json.at("reads");
    for (size_t side = 0; side < 2; ++side) {
      get(reads, side, r.encoded[side]);
      get(reads, 2 + side, r.total[side]);
      get(reads, 4 + side, r.share_sum[side]);
    }
    get(reads, 6, r.queries);
    json.at("seconds").get_to(context.seconds);
    return context;
  }

  // Bytes of the whole lines.
  uint64_t read() {
    const MappedFile mapped(file_.string());
    const std::string_view text = mapped.text();
    uint64_t whole = 0;
    for (size_t end; (end = text.find('\n', whole)) != text.npos; whole = end + 1) {
      try {
        const Json json = Json::parse(text.substr(whole, end - whole));
        lines_.emplace(json.at("key").get<std::string>(), from_json(json, file_.string()));
      } catch (const std::bad_alloc&) {  // the line may be whole
        throw;
      } catch (const std::exception&) {  // of nlohmann::json, or an Error
        break;
      }
    }
    return whole;
  }

  std::filesystem::path file_;
  std::unordered_map<std::string, ScoredContext> lines_;
  int fd_ = -1;
};

}  // namespace ptq::eval
