// Parts of a grid.
#include <stdlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <vector>

#include "ptq/run/shard.hpp"

using namespace ptq;

TEST_CASE("a part is named by a number or by Slurm", "[shard]") {
  const Shard two = parse_shard("2/8");
  CHECK(two.index == 2);
  CHECK(two.count == 8);
  CHECK_FALSE(two.whole());
  CHECK(parse_shard("1/1").whole());
  for (const char* wrong : {"0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/4x", ""})
    CHECK_THROWS_AS(parse_shard(wrong), Error);
  for (const char* name : {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN",
                           "SLURM_PROCID", "SLURM_NTASKS"})
    ::unsetenv(name);
  CHECK_THROWS_WITH(parse_shard("slurm"), Catch::Contains("no task of a Slurm array"));
  ::setenv("SLURM_PROCID", "0", 1);
  ::setenv("SLURM_NTASKS", "3", 1);
  CHECK(parse_shard("slurm").index == 1);
  CHECK(parse_shard("slurm").count == 3);
  ::setenv("SLURM_ARRAY_TASK_ID", "7", 1);
  ::setenv("SLURM_ARRAY_TASK_MIN", "5", 1);
  ::setenv("SLURM_ARRAY_TASK_COUNT", "4", 1);
  CHECK(parse_shard("slurm").index == 3);
  CHECK(parse_shard("slurm").count == 4);
  for (const char* name : {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN",
                           "SLURM_PROCID", "SLURM_NTASKS"})
    ::unsetenv(name);
}

TEST_CASE("parts cost about the same, and neighbours stay together", "[shard]") {
  CHECK(divide_cells({1, 1, 1, 1, 1, 1}, 3) == std::vector<int64_t>{1, 1, 2, 2, 3, 3});
  CHECK(divide_cells({6, 1, 1, 1, 1, 1, 1}, 2) == std::vector<int64_t>{1, 2, 2, 2, 2, 2, 2});
  CHECK(divide_cells({1, 1}, 4) == std::vector<int64_t>{2, 4});
  CHECK(divide_cells({}, 4).empty());
  CHECK(divide_cells({0, 0}, 2) == std::vector<int64_t>{1, 1});
  std::vector<double> costs;
  for (int i = 0; i < 100; ++i) costs.push_back(1 + i * 37 % 11);
  const auto parts = divide_cells(costs, 7);
  CHECK(std::is_sorted(parts.begin(), parts.end()));
  CHECK(parts.front() == 1);
  CHECK(parts.back() == 7);
  double total = 0;
  std::vector<double> sums(8);
  for (size_t i = 0; i < costs.size(); ++i) {
    sums[size_t(parts[i])] += costs[i];
    total += costs[i];
  }
  for (int part = 1; part <= 7; ++part) CHECK(std::abs(sums[size_t(part)] - total / 7) <= 11);
}
