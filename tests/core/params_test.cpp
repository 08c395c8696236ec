#include "core/params.h"

#include <doctest/doctest.h>

#include <array>

#include "core/error.h"

using namespace mmuscope;

namespace {

using Kind = ParamInfo::Kind;
constexpr std::array<ParamInfo, 6> kInfos = {{
    {"processes", Kind::Count, "1", "processes", "how many", 1, 64, ""},
    {"size", Kind::Bytes, "16m", "bytes", "how much", 4096, 1099511627776.0, ""},
    {"theta", Kind::Real, "0.99", "", "skew", 0, 2.5, ""},
    {"fork", Kind::Switch, "off", "", "whether to fork", 0, 0, ""},
    {"pattern", Kind::Choice, "sequential", "", "order", 0, 0, "sequential|strided|uniform"},
    {"file", Kind::Text, "", "", "a path", 0, 0, ""},
}};

Params fresh() { return Params("workload touch", kInfos); }

std::string message(std::string_view list) {
  Params p = fresh();
  try {
    p.set_list(list);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("params: every key has its default, and the canonical form names them all") {
  const Params p = fresh();
  CHECK(p.count("processes") == 1);
  CHECK(p.count("size") == u64{16} << 20);
  CHECK(p.real("theta") == 0.99);
  CHECK(!p.on("fork"));
  CHECK(p.text("pattern") == "sequential");
  CHECK(p.text("file").empty());
  CHECK(p.canonical() == "processes=1,size=16m,theta=0.99,fork=off,pattern=sequential,file=");
}

TEST_CASE("params: one spelling for each value") {
  Params p = fresh();
  p.set_list("processes=007,size=2048k,theta=01.50,fork=on,pattern=uniform,file=a=b");
  CHECK(p.canonical() == "processes=7,size=2m,theta=1.5,fork=on,pattern=uniform,file=a=b");
  p.set("size", "4097");
  CHECK(p.count("size") == 4097);
  CHECK(p.text("size") == "4097");
  p.set("size", "1T");
  CHECK(p.count("size") == u64{1} << 40);
  p.set("theta", ".5");
  CHECK(p.real("theta") == 0.5);
  CHECK(p.text("theta") == "0.5");
}

TEST_CASE("params: what is wrong is named with what would be right") {
  CHECK(message("proceses=2") ==
        "workload touch: unknown key 'proceses'; did you mean 'processes'? valid: processes, size, "
        "theta, fork, pattern, file");
  CHECK(message("zzzzz=2") ==
        "workload touch: unknown key 'zzzzz'; valid: processes, size, theta, fork, pattern, file");
  CHECK(message("processes=65") ==
        "workload touch: processes=65 is not valid; valid: an integer from 1 to 64");
  CHECK(message("processes=0") ==
        "workload touch: processes=0 is not valid; valid: an integer from 1 to 64");
  CHECK(message("size=4095") ==
        "workload touch: size=4095 is not valid; valid: an integer with an optional k, m, g or t "
        "from 4k to 1t");
  CHECK(message("theta=2.6") ==
        "workload touch: theta=2.6 is not valid; valid: a decimal fraction from 0 to 2.5");
  CHECK(message("fork=yes") == "workload touch: fork=yes is not valid; valid: on|off");
  CHECK(message("pattern=stride") ==
        "workload touch: pattern=stride is not valid; valid: sequential|strided|uniform");
}

TEST_CASE("params: malformed numbers and lists are refused") {
  for (const char* list : {"processes=",
                           "processes=-1",
                           "processes=+1",
                           "processes= 1",
                           "processes=1k",
                           "processes=1.0",
                           "processes=18446744073709551617",
                           "size=k",
                           "size=4kk",
                           "size=4kb",
                           "size=99999999999999999999",
                           "size=18014398509481985m",
                           "theta=",
                           "theta=.",
                           "theta=1e3",
                           "theta=nan",
                           "theta=-0.5",
                           "theta=1.2.3",
                           "theta=99999999999999999999999999999999999999999",
                           "fork=",
                           "fork=ON",
                           "pattern=",
                           "pattern=sequential|strided",
                           "processes",
                           "=1",
                           "fork=on,",
                           ",fork=on",
                           "fork=on,,processes=2",
                           "fork=on,fork=off"}) {
    CAPTURE(list);
    CHECK(message(list) != "accepted");
  }
  CHECK(message("fork=on,fork=off") == "workload touch: key 'fork' is given twice");
  CHECK(message("fork") == "workload touch: 'fork' is not key=value");
}

TEST_CASE("params: a refused value leaves the old one") {
  Params p = fresh();
  CHECK_THROWS_AS(p.set("processes", "100"), InputError);
  CHECK(p.count("processes") == 1);
}

TEST_CASE("params: an owner without keys says so") {
  Params p("pager native", {});
  CHECK(p.canonical().empty());
  CHECK_THROWS_WITH_AS(p.set("page", "4k"), "pager native: unknown key 'page'; valid: none",
                       InputError);
}

TEST_CASE("params: specs") {
  CHECK(parse_spec("fork").name == "fork");
  CHECK(parse_spec("fork").list.empty());
  CHECK(parse_spec("fork:").list.empty());
  const Spec s = parse_spec("trace:file=a:b,x=1");
  CHECK(s.name == "trace");
  CHECK(s.list == "file=a:b,x=1");
  CHECK_THROWS_AS(parse_spec(""), InputError);
  CHECK_THROWS_AS(parse_spec(":a=b"), InputError);
}

TEST_CASE("params: the nearest match") {
  constexpr std::array<std::string_view, 4> words = {"native", "shadow", "shadow-unsync", "nested"};
  CHECK(nearest_match("shaddow", words) == "shadow");
  CHECK(nearest_match("shadow-unsinc", words) == "shadow-unsync");
  CHECK(nearest_match("nestd", words) == "nested");
  CHECK(nearest_match("ntaive", words) == "native");
  constexpr std::array<std::string_view, 2> shorter = {"touch", "fork"};
  CHECK(nearest_match("frok", shorter) == "fork");
  CHECK(nearest_match("fxyk", shorter).empty());
  CHECK(nearest_match("kvm", words).empty());
  CHECK(nearest_match("", words).empty());
}
