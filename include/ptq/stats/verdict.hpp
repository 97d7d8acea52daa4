// What an interval and a margin allow to say of a difference.
#pragma once

namespace ptq::stats {

enum class Verdict {
  none,        // nothing was compared
  identical,   // not one difference
  better,      // in quality, whichever direction the figure has
  worse,       //
  equivalent,  // within the margin
  too_few,     // samples
};

}  // namespace ptq::stats
