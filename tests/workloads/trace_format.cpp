#include <doctest/doctest.h>

#include "core/error.h"
#include "core/random.h"
#include "tests/workloads/test_folder.h"
#include "tests/workloads/trace_blocks.h"
#include "tests/workloads/trace_files.h"
#include "workloads/trace/reader.h"
#include "workloads/trace/text.h"
#include "workloads/trace/tools.h"
#include "workloads/trace/writer.h"

namespace mmuscope {
namespace {

/// Records with their calls in place, as a test writes and compares them.
struct Item {
  Record record;
  Call call;
  friend bool operator==(const Item& a, const Item& b) {
    return a.record.kind == b.record.kind && a.record.size == b.record.size &&
           (a.record.kind == RecordKind::Call ? a.call == b.call
                                              : a.record.address == b.record.address);
  }
};

const TraceInfo kInfo{"prog -x", "by hand", "nothing", {"rule one: 1", "rule two: 2"}};

TraceTotals write(const std::filesystem::path& path, const std::vector<Item>& items) {
  TraceWriter writer(path, kInfo, 3);
  for (const Item& item : items) {
    if (item.record.kind == RecordKind::Call) {
      writer.call(item.call);
    } else if (item.record.kind == RecordKind::Switch) {
      writer.switch_to(static_cast<u32>(item.record.address));
    } else {
      writer.access(item.record.kind, item.record.address, item.record.size);
    }
  }
  return writer.finish();
}

std::vector<Item> read(const std::filesystem::path& path) {
  TraceReader reader(path);
  std::vector<Item> items;
  TraceBlock block;
  while (reader.next(block)) {
    CHECK(block.first_record == items.size());
    for (const Record& r : block.records) {
      items.push_back({r, r.kind == RecordKind::Call ? block.calls[r.address] : Call()});
    }
  }
  CHECK(reader.totals().all() == items.size());
  return items;
}

/// The message with which reading ends; empty: it is whole.
std::string refusal(const std::filesystem::path& path) {
  try {
    read(path);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

Item make_call(CallKind kind, u32 process = 0, std::array<u64, 6> args = {}, u64 result = 0) {
  return {{0, 0, RecordKind::Call}, {kind, false, process, args, result, ""}};
}

Item make_switch(u64 process) { return {{process, 0, RecordKind::Switch}, {}}; }

Item random_access(Random& random) {
  static constexpr u16 kSizes[] = {1, 2, 4, 8, 8, 8, 16, 32, 10, 28, 512, kMaxAccessBytes};
  static constexpr u64 kBases[] = {0, 0x4000000, 0x1fff000000, kTraceEnd - 2 * kMaxAccessBytes};
  const u16 size = kSizes[random.below(std::size(kSizes))];
  const u64 spread = u64{1} << random.below(13);
  const u64 address = random.chance(1, 50) ? random.below(kTraceEnd - size)
                                           : kBases[random.below(4)] + random.below(spread);
  return {{address, size, static_cast<RecordKind>(random.below(4))}, {}};
}

Item random_memory_call(Random& random) {
  const u64 at = random.below(1000) << kPageShift;
  const u64 bytes = 1 + random.below(100000);
  switch (random.below(5)) {
    case 0:
      return make_call(CallKind::Map, 0, {0, bytes, 3, 0x22, ~u64{0}, 0}, at);
    case 1:
      return make_call(CallKind::Unmap, 0, {at, bytes});
    case 2:
      return make_call(CallKind::Protect, 0, {at, bytes, 1});
    case 3:
      return make_call(CallKind::Break, 0, {at + 1}, at + 1);
    default:
      return make_call(CallKind::Remap, 0, {at, bytes, bytes * 2, 1, 0}, at + (1 << 30));
  }
}

/// A trace that obeys the rules, of `count` records.
std::vector<Item> random_trace(u64 seed, std::size_t count) {
  Random random(seed);
  std::vector<Item> items = {make_call(CallKind::Spawn, 0, {}, 4711), make_switch(0)};
  std::vector<u32> alive = {0};
  u32 made = 1;
  items[0].call.name = "first program";
  while (items.size() < count) {
    if (random.chance(98, 100)) {
      items.push_back(random_access(random));
    } else if (random.chance(1, 2)) {
      items.push_back(random_memory_call(random));
    } else if (random.chance(1, 2)) {
      const bool vfork = random.chance(1, 4);
      const CallKind kind = vfork ? CallKind::Vfork : CallKind::Fork;
      items.push_back(make_call(kind, made, {0x1200011}, random.next()));
      alive.push_back(made++);
      if (!vfork) continue;
      items.push_back(make_switch(alive.back()));
      items.push_back(random_access(random));
      items.push_back(make_call(random.chance(1, 2) ? CallKind::Exec : CallKind::Exit));
      if (items.back().call.kind == CallKind::Exit) alive.pop_back();
      items.push_back(make_switch(alive.front()));
    } else if (alive.size() > 1 && random.chance(1, 4)) {
      std::swap(alive.front(), alive.back());
      items.push_back(make_switch(alive.back()));
      items.push_back(make_call(CallKind::Exit, 0, {random.next()}));
      alive.pop_back();
      items.push_back(make_switch(alive.front()));
    } else {
      std::swap(alive.front(), alive[random.below(alive.size())]);
      items.push_back(make_switch(alive.front()));
      items.push_back(make_call(CallKind::Exec));
      items.back().call.name = std::string(random.below(kMaxNameBytes + 1), 'n');
      items.back().call.synthesized = true;
    }
  }
  return items;
}

TEST_CASE("trace: what is written is read, record for record") {
  const TestFolder folder("round-trip");
  for (u64 seed = 1; seed <= 30; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const std::vector<Item> items = random_trace(seed, random.below(5000) + 2);
    const TraceTotals totals = write(folder / "t", items);
    CHECK(totals.all() == items.size());
    CHECK(read(folder / "t") == items);
    CHECK(TraceReader(folder / "t").info() == kInfo);
  }
  // More than one block, and blocks that end by their bytes and not by their records.
  const std::vector<Item> many = random_trace(99, 3 * kMaxBlockRecords);
  write(folder / "t", many);
  CHECK(read(folder / "t") == many);
  std::vector<Item> long_names = {make_call(CallKind::Spawn), make_switch(0)};
  for (int i = 0; i < 6000; ++i) {
    long_names.push_back(make_call(CallKind::Exec));
    long_names.back().call.name = std::string(kMaxNameBytes, 'x');
  }
  write(folder / "t", long_names);
  CHECK(read(folder / "t") == long_names);
}

TEST_CASE("trace: a file without records is a trace") {
  const TestFolder folder("empty");
  CHECK(write(folder / "t", {}).all() == 0);
  CHECK(read(folder / "t").empty());
}

TEST_CASE("trace: control characters do not reach the reader") {
  const TestFolder folder("control");
  TraceInfo info = kInfo;
  info.program = "a\nrecorder: forged\x1b[2J";
  TraceWriter(folder / "t", info).finish();
  CHECK(TraceReader(folder / "t").info().program == "a?recorder: forged?[2J");
  CHECK(TraceReader(folder / "t").info().recorder == "by hand");
}

TEST_CASE("trace: a writer that does not finish leaves nothing, and the old file alone") {
  const TestFolder folder("unfinished");
  folder.write("t", "old");
  { const TraceWriter writer(folder / "t", kInfo); }
  CHECK(file_bytes(folder / "t") == "old");
  CHECK(!std::filesystem::exists(folder / "t.tmp"));
  CHECK_THROWS_AS(TraceWriter(folder / "no/such/folder", kInfo), InputError);
}

TEST_CASE("trace: every change of a byte, every truncation, and bytes behind are refused") {
  const TestFolder folder("damage");
  const std::vector<Item> items = random_trace(5, 300);
  write(folder / "t", items);
  const std::string whole = file_bytes(folder / "t");
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    // (Another bit of the version would make an older one of it.)
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at + 2) % 8));
    const std::string message = refusal(folder.write("bad", bytes));
    CAPTURE(at);
    CHECK(contains(message, "bad: record "));
    CHECK(contains(message, "; valid: "));
  }
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK(contains(refusal(folder.write("bad", whole.substr(0, length))), "bad: record "));
  }
  CHECK(contains(refusal(folder.write("bad", whole + '\0')), "bytes follow the end"));
}

TEST_CASE("trace: the message names the record at which a large file is damaged") {
  const TestFolder folder("where");
  write(folder / "t", random_trace(7, 3 * kMaxBlockRecords));
  const std::string whole = file_bytes(folder / "t");
  std::string second = whole;
  second[whole.size() / 2] = static_cast<char>(second[whole.size() / 2] + 1);
  CHECK(contains(refusal(folder.write("bad", second)), "bad: record 32768: damaged"));
  CHECK(contains(refusal(folder.write("bad", whole.substr(0, whole.size() - 10))),
                 "bad: record 98304: truncated"));
}

TEST_CASE("trace: other files are refused by name") {
  const TestFolder folder("other");
  CHECK(contains(refusal(folder.write("bad", "")), "no trace of mmuscope"));
  CHECK(contains(refusal(folder.write("bad", "==1== Lackey")), "no trace of mmuscope"));
  CHECK(contains(refusal(folder.path()), "cannot be read"));
  CHECK(contains(refusal(folder / "missing"), "missing: cannot be read"));
  write(folder / "t", {});
  std::string bytes = file_bytes(folder / "t");
  bytes[8] = 4;
  CHECK(contains(refusal(folder.write("bad", bytes)), "version 4"));
}

TEST_CASE("trace: a forged file with right checksums is refused or read, never more") {
  const TestFolder folder("forged");
  write(folder / "t", random_trace(11, 400));
  const std::string whole = file_bytes(folder / "t");
  const Blocks blocks = unpack(whole);
  REQUIRE(refusal(folder.write("same", pack(blocks))).empty());
  u64 refused = 0;
  for (u64 seed = 1; seed <= 3000; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    Blocks forged = blocks;
    std::string& raw = forged[1].second;
    for (u64 i = 1 + random.below(3); i > 0; --i) {
      raw[random.below(raw.size())] = static_cast<char>(random.next());
    }
    if (random.chance(1, 4)) raw.resize(random.below(raw.size()));
    if (random.chance(1, 8)) forged[1].first.records = static_cast<u32>(random.below(40000));
    refused += !refusal(folder.write("bad", pack(forged))).empty();
  }
  CHECK(refused > 2000);  // the rest changed an address or a size into another valid one
}

TEST_CASE("trace: records that break the rules are refused, with their number") {
  const TestFolder folder("rules");
  const Item spawn = make_call(CallKind::Spawn);
  const Item load{{0x1000, 8, RecordKind::Load}, {}};
  const auto message = [&](const std::vector<Item>& items) {
    write(folder / "t", items);
    return refusal(folder / "t");
  };
  CHECK(message({spawn, make_switch(0), load}).empty());
  CHECK(contains(message({load}), "no process"));
  CHECK(contains(message({spawn, load}), "no process"));
  CHECK(contains(message({spawn, make_switch(1)}), "record 1: a switch to no living process"));
  CHECK(contains(message({spawn, spawn}), "record 1: process 0 made out of order"));
  CHECK(contains(message({spawn, make_switch(0), make_call(CallKind::Fork, 2)}), "record 2: "));
  const Item exit = make_call(CallKind::Exit);
  CHECK(contains(message({spawn, make_switch(0), exit, load}), "no process"));
  CHECK(contains(message({spawn, make_switch(0), exit, make_switch(0)}), "record 3: a switch"));
  CHECK(contains(message({spawn, make_switch(0), exit, exit}), "record 3: "));
  // Who has made a child by vfork runs again when it has executed a program or ended.
  const Item vfork = make_call(CallKind::Vfork, 1), exec = make_call(CallKind::Exec);
  CHECK(contains(message({spawn, make_switch(0), vfork, load}), "an access by no process"));
  CHECK(contains(message({spawn, make_switch(0), vfork, make_switch(0)}), "record 3: a switch"));
  for (const Item& last : {exec, exit}) {
    CHECK(message({spawn, make_switch(0), vfork, make_switch(1), load, last, make_switch(0), load})
              .empty());
  }
  const Item fork = make_call(CallKind::Fork, 2);
  CHECK(contains(message({spawn, make_switch(0), vfork, make_switch(1), fork, make_switch(2), exec,
                          make_switch(0)}),
                 "record 7: a switch"));
  for (const Item& call :
       {make_call(CallKind::Map, 0, {0, 0}, 0x1000), make_call(CallKind::Map, 0, {0, 1}, 0x1001),
        make_call(CallKind::Map, 0, {0, ~u64{0}}, 0x1000),
        make_call(CallKind::Map, 0, {0, 1}, kTraceEnd), make_call(CallKind::Unmap, 0, {0x1000, 0}),
        make_call(CallKind::Protect, 0, {kTraceEnd - kPageBytes, 4097}),
        make_call(CallKind::Remap, 0, {0x1000, 1, 0}, 0x1000),
        make_call(CallKind::Break, 0, {}, kTraceEnd + 1)}) {
    CHECK(contains(message({spawn, make_switch(0), call}), "record 2: "));
  }
}

TEST_CASE("trace: an access outside the user half is refused with its number") {
  const TestFolder folder("kernel-half");
  write(folder / "t", {make_call(CallKind::Spawn),
                       make_switch(0),
                       {{0x1000, 8, RecordKind::Load}, {}},
                       {{kTraceEnd - 8, 8, RecordKind::Load}, {}}});
  REQUIRE(refusal(folder / "t").empty());
  const std::string whole = file_bytes(folder / "t");
  Blocks blocks = unpack(whole);
  blocks[1].second[3] = static_cast<char>((12 << 4) | (3 << 2) | 1);  // 16 bytes where 8 were
  CHECK(contains(refusal(folder.write("bad", pack(blocks))),
                 "record 3: an access outside the user half"));
}

TEST_CASE("trace: info adds up what a trace holds, dump prints each record") {
  const TestFolder folder("info");
  std::vector<Item> items = {make_call(CallKind::Spawn, 0, {}, 10),
                             make_switch(0),
                             {{0x1000, 4, RecordKind::Instruction}, {}},
                             {{0x2000, 8, RecordKind::Load}, {}},
                             make_call(CallKind::Fork, 1, {17}, 11),
                             make_switch(1),
                             {{0x2ffc, 8, RecordKind::Store}, {}},
                             make_call(CallKind::Exit, 0, {3}),
                             make_switch(0),
                             {{0x2008, 16, RecordKind::Modify}, {}}};
  items[0].call.name = "prog";
  items[7].call.synthesized = true;
  write(folder / "t", items);
  const TraceSummary summary = trace_info(folder / "t");
  CHECK(summary.totals.records == std::array<u64, 6>{1, 1, 1, 1, 3, 3});
  CHECK(summary.totals.processes == 2);
  CHECK(summary.synthesized_calls == 1);
  REQUIRE(summary.processes.size() == 2);
  CHECK(summary.processes[0].accesses == 3);
  CHECK(summary.processes[1].accesses == 1);
  CHECK(summary.processes[1].parent == 0);
  CHECK(summary.processes[1].name == "prog");
  CHECK(contains(describe(summary), "program      prog -x\n"));
  std::FILE* const out = std::fopen((folder / "dump").c_str(), "wb");
  trace_dump(folder / "t", out);
  std::fclose(out);
  const std::string text = file_bytes(folder / "dump");
  CHECK(text.substr(text.find("0 - ")) ==
        "0 - spawn task 0 = 0xa prog\n"
        "1 - switch 0\n"
        "2 0 instruction 0x1000 4\n"
        "3 0 load 0x2000 8\n"
        "4 0 fork task 1 0x11 = 0xb\n"
        "5 0 switch 1\n"
        "6 1 store 0x2ffc 8\n"
        "7 1 synthesized exit 0x3 = 0x0\n"
        "8 - switch 0\n"
        "9 0 modify 0x2008 16\n");
}

}  // namespace
}  // namespace mmuscope
