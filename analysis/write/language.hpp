// The languages of the pages that the original study had.
#pragma once

namespace ptq::report {

enum class Language { zh, en };

}  // namespace ptq::report
