// Random draws, words and filler lines of the retrieval suite (docs/retrieval.md): a prompt is a
// function of one seed, so that every machine and every method sees the same text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ptq/core/mt19937.hpp"

namespace ptq::retrieval {

// What stands between the needles.
enum class Haystack : int { noise = 0, prose = 1, needles = 2 };

inline constexpr std::array<const char*, 3> kHaystackNames = {"noise", "prose", "needles"};

// Names of things are an adjective and a noun of these; prose has nouns of its own.
inline constexpr std::array<std::string_view, 64> kAdjectives = {
    "old",     "new",    "small",  "large",  "quiet",  "loud",    "heavy",   "light",
    "narrow",  "wide",   "bright", "dark",   "warm",   "cold",    "early",   "late",
    "strange", "plain",  "broken", "clean",  "dusty",  "empty",   "gentle",  "hard",
    "hollow",  "long",   "short",  "low",    "high",   "rough",   "smooth",  "round",
    "sharp",   "slow",   "soft",   "steep",  "strong", "sweet",   "tall",    "thick",
    "thin",    "tiny",   "wet",    "dry",    "wild",   "young",   "careful", "famous",
    "hidden",  "honest", "hungry", "lonely", "lucky",  "patient", "proud",   "rare",
    "simple",  "sleepy", "spare",  "sturdy", "useful", "red",     "blue",    "golden"};
inline constexpr std::array<std::string_view, 64> kNouns = {
    "lantern", "box",    "key",    "book",   "letter", "map",    "coat",   "hat",
    "boat",    "wagon",  "clock",  "ladder", "basket", "bottle", "chair",  "table",
    "mirror",  "drum",   "flute",  "knife",  "rope",   "wheel",  "bell",   "candle",
    "picture", "ring",   "stone",  "bag",    "barrel", "kettle", "lamp",   "needle",
    "blanket", "shovel", "hammer", "saddle", "trunk",  "window", "door",   "gate",
    "jar",     "comb",   "fan",    "cup",    "plate",  "spoon",  "mill",   "bridge",
    "market",  "tower",  "dog",    "cat",    "goat",   "horse",  "parrot", "rabbit",
    "goose",   "fox",    "owl",    "pony",   "sheep",  "raven",  "duck",   "mouse"};
inline constexpr std::array<std::string_view, 20> kProseNouns = {
    "morning",  "evening", "winter",  "summer", "storm",    "cloud",   "shadow",
    "river",    "forest",  "garden",  "valley", "village",  "captain", "neighbour",
    "stranger", "journey", "promise", "secret", "question", "mistake"};
inline constexpr std::array<std::string_view, 14> kProseVerbs = {
    "found",    "lost",       "carried",   "painted", "cleaned", "borrowed", "watched",
    "followed", "remembered", "described", "moved",   "lifted",  "covered",  "praised"};
inline constexpr std::array<std::string_view, 6> kProsePrepositions = {"near",  "behind", "under",
                                                                       "above", "beside", "beyond"};
inline constexpr std::array<std::string_view, 8> kOrdinals = {
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"};
inline constexpr std::string_view kNoise =
    "The river runs to the sea. The boats are tied. The gulls are loud. Nothing happens here.";

// The draws of one prompt; names and numbers never come twice.
class Draws {
 public:
  explicit Draws(const std::vector<uint32_t>& key) : random_(key) {}

  int64_t integer(int64_t low, int64_t high) { return random_.randint(low, high); }

  template <size_t N>
  std::string pick(const std::array<std::string_view, N>& words) {
    return std::string(words[size_t(random_.randint(0, int64_t(N) - 1))]);
  }

  std::string name() {
    for (;;) {
      const std::string adjective = pick(kAdjectives);
      std::string name = adjective + " " + pick(kNouns);
      if (names_.insert(name).second) return name;
    }
  }
  std::string number() {
    for (;;) {
      std::string number = std::to_string(random_.randint(10000, 99999));
      if (numbers_.insert(number).second) return number;
    }
  }
  // Names that can still be drawn.
  size_t names_left() const { return kAdjectives.size() * kNouns.size() - names_.size(); }

 private:
  PythonRandom random_;
  std::unordered_set<std::string> names_, numbers_;
};

inline std::string prose_sentence(Draws& draws) {
  const std::string a = draws.pick(kAdjectives), n = draws.pick(kProseNouns),
                    v = draws.pick(kProseVerbs), a2 = draws.pick(kAdjectives),
                    n2 = draws.pick(kProseNouns);
  std::string p = draws.pick(kProsePrepositions);
  const std::string n3 = draws.pick(kProseNouns);
  switch (draws.integer(0, 3)) {
    case 0:
      return "The " + a + " " + n + " " + v + " the " + a2 + " " + n2 + " " + p + " the " + n3 +
             ".";
    case 1:
      return "Every " + n + " " + p + " the " + a + " " + n2 + " " + v + " one " + a2 + " " + n3 +
             ".";
    case 2:
      p[0] = char(p[0] - 'a' + 'A');
      return p + " the " + a + " " + n + " someone " + v + " the " + a2 + " " + n2 + " and the " +
             n3 + ".";
    default:
      return "The " + n + " " + v + " the " + n2 + ", but the " + a + " " + n3 + " was " + a2 + ".";
  }
}

}  // namespace ptq::retrieval
