// Included before everything else by the TOML target. clang 14 with libstdc++ 12 cannot compile
// ConfigNode, whose members are std::pair<std::string, ConfigNode>: the explicit() of pair's
// constructor needs the destructor of ConfigNode, which needs the pair. gcc and later versions of
// clang can. Answering the question beforehand breaks the circle.
#pragma once

#include <type_traits>
#include <utility>

#if defined(__clang__) && defined(__GLIBCXX__) && __clang_major__ < 15
namespace ptq {
struct ConfigNode;
}
template <>
struct std::__is_implicitly_default_constructible<ptq::ConfigNode> : std::true_type {};
#endif
