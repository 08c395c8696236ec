#include "tests/support/oracle.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

namespace mmuscope {

namespace {

constexpr u64 kPageSizesBytes[] = {u64{1} << 12, u64{1} << 21, u64{1} << 30};
constexpr u64 kPresentAccessed = 0x21;
constexpr u64 kEntryDirty = 0x40;
constexpr u64 kFaultPresent = 1, kFaultReserved = 8;  // of the error code

std::string hex(u64 value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string describe(const Reference& r) {
  switch (r.end) {
    case Reference::End::Ok:
      return "gpa " + hex(r.gpa);
    case Reference::End::PageFault:
      return "#PF " + std::to_string(r.error_code);
    case Reference::End::GeneralProtection:
      return "#GP";
  }
  return {};
}

bool same_outcome(const Reference& a, const Reference& b) {
  return a.end == b.end && a.error_code == b.error_code && a.gpa == b.gpa;
}

constexpr u64 kZeroPage[kEntriesPerTable] = {};

/// Guest frames that have memory of their own, and where it is: what has never been written is not
/// even looked at, since a look would make the operating system map it.
std::vector<std::pair<u64, const std::byte*>> pages_in_use(Machine& machine) {
  std::vector<std::pair<u64, const std::byte*>> pages;
  u64 last = 0;
  for (u64 frame = 0; frame < machine.map().bytes() / kPageBytes; ++frame) {
    const auto backing = machine.map().find(Gfn(frame));
    if (!backing) continue;
    pages.emplace_back(frame, machine.memory().at(backing->frame.base()));
    last = std::max(last, backing->frame.raw());
  }
  std::byte* base = machine.memory().at(Hpa(0));
  std::vector<unsigned char> resident(last + 1);
  if (mincore(base, (last + 1) * kPageBytes, resident.data()) != 0) return pages;
  const auto absent = [&](const auto& page) {
    return !(resident[static_cast<u64>(page.second - base) / kPageBytes] & 1);
  };
  pages.erase(std::remove_if(pages.begin(), pages.end(), absent), pages.end());
  return pages;
}

}  // namespace

Oracle::Oracle(Machine& machine) : machine_(machine), views_(machine.vcpu_count()) {
  for (unsigned i = 0; i < machine.vcpu_count(); ++i) machine.vcpu(i).set_observer(this);
}

Oracle::~Oracle() {
  for (unsigned i = 0; i < machine_.vcpu_count(); ++i) machine_.vcpu(i).set_observer(nullptr);
  if (memory_ != nullptr) munmap(memory_, words_ * 8);
}

void Oracle::begin() {
  begun_ = true;
  words_ = machine_.map().bytes() / 8;
  // Costs what is touched, as the machine's own memory does.
  void* zeroed = mmap(nullptr, words_ * 8, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (zeroed == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<u64*>(zeroed);
  is_table_.assign(machine_.map().bytes() / kPageBytes, false);
  used_ = is_table_;
  for (const auto& [frame, page] : pages_in_use(machine_)) {
    if (std::memcmp(page, kZeroPage, kPageBytes) == 0) continue;
    std::memcpy(&memory_[frame * kEntriesPerTable], page, kPageBytes);
    used_[frame] = true;
  }
}

void Oracle::check_memory() {
  if (!begun_) begin();
  std::vector<bool> seen(used_.size());
  for (const auto& [frame, page] : pages_in_use(machine_)) {
    seen[frame] = true;
    const u64* due = used_[frame] ? &memory_[frame * kEntriesPerTable] : kZeroPage;
    if (std::memcmp(page, due, kPageBytes) == 0) continue;
    for (u64 i = 0; i < kEntriesPerTable; ++i) {
      const u64 gpa = frame * kPageBytes + 8 * i;
      const u64 is = machine_.host_read(Gpa(gpa));
      if (is == word(gpa)) continue;
      throw Disagreement("at the end the word at gpa " + hex(gpa) + " is " + hex(is) +
                         " and should be " + hex(word(gpa)));
    }
  }
  for (u64 frame = 0; frame < used_.size(); ++frame) {
    if (used_[frame] && !seen[frame] &&
        std::memcmp(&memory_[frame * kEntriesPerTable], kZeroPage, kPageBytes) != 0) {
      throw Disagreement("at the end guest frame " + hex(frame) + " is empty");
    }
  }
}

u64 Oracle::memory_digest() const {
  u64 sum = 0;
  for (u64 frame = 0; frame < used_.size(); ++frame) {
    if (!used_[frame]) continue;
    for (u64 i = frame * kEntriesPerTable; i < (frame + 1) * kEntriesPerTable; ++i) {
      if (memory_[i] != 0) sum = (sum ^ (memory_[i] + i)) * 0x9e37'79b9'7f4a'7c15;
    }
  }
  return sum;
}

void Oracle::mix(u64 value) {
  digest_ = (digest_ ^ value) * 0x9e37'79b9'7f4a'7c15;
  digest_ ^= digest_ >> 29;
}

Oracle::VcpuView& Oracle::view(Vcpu& vcpu) {
  if (!begun_) begin();
  ++now_;
  running_ = vcpu.index();
  VcpuView& v = views_[running_];
  if (!v.known) {
    v.known = true;
    v.cr3 = vcpu.cr3();
    v.controls = vcpu.controls();
    v.pcid_flush[pcid(v)] = 0;
  }
  v.controls.ac = vcpu.controls().ac;  // STAC and CLAC tell nobody
  return v;
}

u32 Oracle::pcid(const VcpuView& v) const {
  return v.controls.pcide ? static_cast<u32>(v.cr3 & 0xfff) : 0;
}

u64 Oracle::word(u64 gpa) const { return gpa / 8 < words_ ? memory_[gpa / 8] : ~u64{0}; }

// --- what is permitted ---------------------------------------------------------------------------

namespace {

template <class Times, class Key>
u64 time_of(const Times& times, const Key& key) {
  const auto it = times.find(key);
  return it == times.end() ? 0 : it->second;
}

}  // namespace

/// When the vCPU last flushed all that is not global of a PCID.
u64 Oracle::flushed(const VcpuView& v, u32 tag) const {
  return std::max({v.all_flush, v.nonglobal_flush, time_of(v.pcid_flush, tag)});
}

/// When the vCPU last flushed what could give this result.
u64 Oracle::flushed(const VcpuView& v, u64 va, const Reference& r) const {
  const u32 tag = r.global ? kGlobals : pcid(v);
  u64 last = r.global ? v.all_flush : flushed(v, tag);
  if (!r.global) last = std::max(last, time_of(v.fault, PageKey(tag, va / kPageBytes)));
  if (r.page_bytes == 0) return std::max(last, time_of(v.upper_flush, tag));
  // Of a large page every fragment goes with an INVLPG of any address in it.
  const u64 page = va / r.page_bytes * r.page_bytes | r.page_bytes >> 12;
  return std::max(last, time_of(v.page_flush, PageKey(tag, page)));
}

/// A stale entry serves only if it could be cached, and still be so.
bool Oracle::possible(const VcpuView& v, u64 va, Access access, const Candidate& c,
                      u64 last) const {
  if (c.all_current) return true;
  const Reference& r = c.result;
  if (r.end == Reference::End::GeneralProtection) return false;
  const bool reached_leaf = r.page_bytes != 0;
  const bool last_is_stale = !c.current.back();
  // Entries that are not present or malformed are not cached.
  if (!reached_leaf && last_is_stale) return false;
  // A store through an entry that is not dirty walks, and finds what memory holds.
  if (r.end == Reference::End::Ok && last_is_stale && access.is_write() && !(last & kEntryDirty)) {
    return false;
  }
  return c.until > flushed(v, va, r);
}

/// Adds the results of walks from one root, every word in turn taken as it is and as it was.
void Oracle::collect(const VcpuView& v, u64 root, u64 root_until, u64 va, Access access,
                     std::vector<Candidate>& out) {
  std::vector<std::size_t> choice, choices;
  do {
    Candidate c;
    c.until = root_until;
    c.all_current = root_until == ~u64{0};
    std::size_t depth = 0;
    u64 last = 0;
    choices.clear();
    c.result = translate_by_the_manual(
        [&](u64 gpa) {
          if (gpa / kPageBytes < is_table_.size()) is_table_[gpa / kPageBytes] = true;
          std::vector<Version> options{{word(gpa), ~u64{0}}};
          if (const auto it = old_.find(gpa / 8); it != old_.end()) {
            for (const Version& old : it->second) {
              const bool cachable = (old.value & kPresentAccessed) == kPresentAccessed;
              const bool other = old.value != options[0].value;
              if (cachable && other && old.until > v.all_flush) options.push_back(old);
            }
          }
          if (depth == choice.size()) choice.push_back(0);
          choices.push_back(options.size());
          const std::size_t chosen = choice[depth++];
          c.current.push_back(chosen == 0);
          c.all_current &= chosen == 0;
          c.until = std::min(c.until, options[chosen].until);
          return last = options[chosen].value;
        },
        root, va, access, v.controls, machine_.max_phys_bits(), machine_.cpu().pages_1g);
    if (possible(v, va, access, c, last)) out.push_back(std::move(c));
    choice.resize(depth);
    while (!choice.empty() && choice.back() + 1 == choices[choice.size() - 1]) choice.pop_back();
    if (!choice.empty()) ++choice.back();
  } while (!choice.empty());
}

std::vector<Oracle::Candidate> Oracle::permitted(const VcpuView& v, u64 va, Access access) {
  std::vector<Candidate> out;
  collect(v, v.cr3, ~u64{0}, va, access, out);
  for (const OldRoot& old : v.old_roots) {
    // Of another PCID, or after a flush, only globals are left.
    const bool kept = old.pcid == pcid(v) && old.until > flushed(v, old.pcid);
    if (!kept && !(v.controls.pge && old.until > v.all_flush)) continue;
    std::vector<Candidate> more;
    collect(v, old.cr3, old.until, va, access, more);
    for (Candidate& c : more) {
      if (kept || c.result.global) out.push_back(std::move(c));
    }
  }
  return out;
}

// --- accesses ------------------------------------------------------------------------------------

void Oracle::disagree(const Seen& seen, const std::string& found,
                      const std::vector<Candidate>& candidates) {
  static constexpr const char* kKinds[] = {"read", "write", "fetch"};
  std::string text = "access " + std::to_string(checked_) + ", vCPU " + std::to_string(running_) +
                     ": a " + (seen.access.is_user() ? "user " : "supervisor ") +
                     kKinds[static_cast<int>(seen.access.kind)] + " at " + hex(seen.va.raw()) +
                     " " + found + "; permitted:";
  for (const Candidate& c : candidates) {
    text += " " + describe(c.result) + (c.all_current ? "" : " (stale)");
  }
  throw Disagreement(text);
}

bool Oracle::agrees(const Seen& seen, const Reference& r) const {
  if (!seen.done) {
    const bool gp = seen.fault.kind == GuestFault::Kind::GeneralProtection;
    if (gp) return r.end == Reference::End::GeneralProtection;
    return r.end == Reference::End::PageFault && r.error_code == seen.fault.error_code &&
           seen.fault.address == seen.va;
  }
  if (r.end != Reference::End::Ok) return false;
  if (seen.emulated) return seen.access.is_write();
  const auto backing = machine_.map().find(Gpa(r.gpa).frame());
  return backing && backing->frame.base() + Gpa(r.gpa).page_offset() == seen.where;
}

/// An exit makes an access begin anew, and drops what the address's first walk went by: the flags
/// that this walk set are then left in entries that the last one does not use.
void Oracle::allow_flags(const Seen& seen, const Candidate& c) {
  if (c.result.end != Reference::End::Ok) return;
  for (const u64 gpa : c.result.entries) {
    if (gpa / 8 >= words_) continue;
    const bool leaf = gpa == c.result.entries.back();
    const u64 flags = 0x20 | (leaf && seen.access.is_write() ? kEntryDirty : 0);
    memory_[gpa / 8] |= machine_.host_read(Gpa(gpa)) & flags;
  }
}

/// A and D: set where they must be, and nothing else changed, in the entries of this walk. Where
/// other outcomes were permitted too, they may be set or not.
void Oracle::check_flags(const Seen& seen, const std::vector<Candidate>& candidates, u64 stored_at,
                         u64 stored_bytes) {
  if (candidates.size() > 1) {
    for (const Candidate& c : candidates) allow_flags(seen, c);
  }
  for (const Candidate& c : candidates) {
    if (!agrees(seen, c.result)) continue;
    check_flags_of(seen, c, stored_at, stored_bytes, candidates.size() == 1);
  }
}

void Oracle::check_flags_of(const Seen& seen, const Candidate& c, u64 stored_at, u64 stored_bytes,
                            bool certain) {
  const Reference& r = c.result;
  for (std::size_t i = 0; i < r.entries.size(); ++i) {
    const u64 gpa = r.entries[i];
    if (gpa / 8 >= words_) continue;
    u64 flags = 0;
    if (seen.done) flags = 0x20;
    // By address: a table that maps itself has one entry as both.
    if (seen.done && seen.access.is_write() && gpa == r.entries.back()) flags |= kEntryDirty;
    const u64 before = memory_[gpa / 8];
    const u64 is = machine_.host_read(Gpa(gpa));
    // A store may have been to this very entry.
    const bool stored_here = stored_at / 8 <= gpa / 8 && stored_bytes > 0 &&
                             gpa / 8 <= (stored_at + stored_bytes - 1) / 8;
    memory_[gpa / 8] |= certain || stored_here ? flags : is & flags;
    if (!stored_here && is != memory_[gpa / 8]) {
      disagree(seen,
               "left the entry at gpa " + hex(gpa) + " as " + hex(is) + ", was " + hex(before) +
                   ", flags due " + hex(flags),
               {c});
    }
  }
}

void Oracle::store_bytes(u64 gpa, const std::byte* from, u64 bytes) {
  used_[gpa / kPageBytes] = true;
  for (u64 index = gpa / 8; index <= (gpa + bytes - 1) / 8; ++index) {
    if (!is_table_[index * 8 / kPageBytes]) continue;
    Versions& versions = old_[index];
    const auto same = std::find_if(versions.begin(), versions.end(),
                                   [&](const Version& old) { return old.value == memory_[index]; });
    if (same != versions.end()) {
      same->until = now_;
    } else {
      versions.push_back({memory_[index], now_});
    }
  }
  std::memcpy(reinterpret_cast<std::byte*>(memory_) + gpa, from, bytes);
}

/// A fill with zeros, or one side of a copy. The data is judged at the end.
void Oracle::check_string(VcpuView& v, const Seen& seen, const std::vector<Candidate>& candidates,
                          u64 gpa) {
  if (!seen.access.is_write()) {
    v.copy_from = Source{seen, candidates, gpa};
    return;
  }
  std::vector<std::byte> data(seen.op.bytes);
  check_flags(seen, candidates, gpa, seen.op.bytes);
  if (v.copy_from) {
    check_flags(v.copy_from->seen, v.copy_from->candidates, gpa, seen.op.bytes);
    const std::byte* source = reinterpret_cast<const std::byte*>(memory_) + v.copy_from->gpa;
    data.assign(source, source + seen.op.bytes);
    v.copy_from.reset();
  }
  store_bytes(gpa, data.data(), data.size());
}

/// The value loaded, and what a store leaves in memory.
void Oracle::check_data(const Seen& seen, u64 gpa) {
  const std::byte* data = reinterpret_cast<const std::byte*>(memory_) + gpa;
  const bool write = seen.access.is_write();
  u64 expected = 0;
  std::memcpy(&expected, data, seen.op.bytes);
  if ((!write || seen.op.exchange) && seen.loaded != expected) {
    disagree(seen, "loaded " + hex(seen.loaded) + " where " + hex(expected) + " stands", {});
  }
  if (!write) return;
  store_bytes(gpa, reinterpret_cast<const std::byte*>(&seen.op.value), seen.op.bytes);
  u64 stands = 0, stored = 0;
  const auto backing = machine_.map().find(Gpa(gpa).frame());
  if (backing) {
    std::memcpy(&stands, machine_.memory().at(backing->frame.base() + Gpa(gpa).page_offset()),
                seen.op.bytes);
  }
  std::memcpy(&stored, &seen.op.value, seen.op.bytes);
  if (stands != stored) {
    disagree(seen, "stored " + hex(stored) + " and left " + hex(stands), {});
  }
}

void Oracle::on_access(Vcpu& vcpu, const Seen& seen) {
  VcpuView& v = view(vcpu);
  ++checked_;
  mix(running_ | static_cast<u64>(seen.access.kind) << 8 |
      static_cast<u64>(seen.access.privilege) << 16 | u64{seen.done} << 24);
  mix(seen.va.raw());
  if (!seen.done) mix(seen.fault.error_code);
  if (seen.done && (!seen.access.is_write() || seen.op.exchange)) mix(seen.loaded);

  const u64 va = seen.va.raw();
  const std::vector<Candidate> candidates = permitted(v, va, seen.access);
  const bool one_outcome =
      std::all_of(candidates.begin(), candidates.end(),
                  [&](const Candidate& c) { return same_outcome(c.result, candidates[0].result); });
  if (!one_outcome) ++uncertain_;
  const Candidate* chosen = nullptr;  // rather one that needs no stale entry
  for (const Candidate& c : candidates) {
    if (agrees(seen, c.result) && (chosen == nullptr || c.all_current)) chosen = &c;
  }
  if (chosen == nullptr) {
    const std::string found = !seen.done
                                  ? (seen.fault.kind == GuestFault::Kind::PageFault
                                         ? "gave #PF " + std::to_string(seen.fault.error_code)
                                         : std::string("gave #GP"))
                              : seen.emulated ? std::string("was emulated")
                                              : "reached host address " + hex(seen.where.raw());
    disagree(seen, found, candidates);
  }
  if (!seen.done && seen.fault.kind == GuestFault::Kind::PageFault &&
      (seen.fault.error_code & (kFaultPresent | kFaultReserved)) == kFaultPresent) {
    v.fault[PageKey(pcid(v), va / kPageBytes)] = now_;
  }
  const u64 gpa = chosen->result.gpa;
  if (seen.done && seen.op.string) return check_string(v, seen, candidates, gpa);
  check_flags(seen, candidates, gpa, seen.done && seen.access.is_write() ? seen.op.bytes : 0);
  if (seen.done && !seen.access.is_fetch()) check_data(seen, gpa);
}

/// What the host has taken reads as zeros.
void Oracle::on_offer(Vcpu& vcpu, Gfn first, u64 frames, bool) {
  (void)view(vcpu);
  for (u64 i = 0; i < frames; ++i) {
    store_bytes((first + i).base().raw(), reinterpret_cast<const std::byte*>(kZeroPage),
                kPageBytes);
  }
}

// --- flushes -------------------------------------------------------------------------------------
// SDM vol. 3, *Operations that Invalidate TLBs and Paging-Structure Caches*.

void Oracle::on_cr3(Vcpu& vcpu, u64 value) {
  VcpuView& v = view(vcpu);
  const auto same = std::find_if(v.old_roots.begin(), v.old_roots.end(), [&](const OldRoot& old) {
    return old.cr3 == v.cr3 && old.pcid == pcid(v);
  });
  if (same != v.old_roots.end()) v.old_roots.erase(same);
  v.old_roots.push_back({v.cr3, pcid(v), now_});
  v.cr3 = value & ~(u64{1} << 63);
  // Of a PCID never used before nothing can be cached.
  const bool first = v.pcid_flush.count(pcid(v)) == 0;
  if (!v.controls.pcide || !(value >> 63) || first) v.pcid_flush[pcid(v)] = now_;
}

void Oracle::on_controls(Vcpu& vcpu, const Controls& to) {
  VcpuView& v = view(vcpu);
  const Controls from = v.controls;
  v.controls = to;
  if (from.pge != to.pge || (from.pcide && !to.pcide)) v.all_flush = now_;
}

/// INVLPG names an address; whatever page of whatever size holds it goes.
void Oracle::flush_page(VcpuView& v, u32 tag, u64 va) {
  for (const u64 bytes : kPageSizesBytes) {
    v.page_flush[PageKey(tag, va / bytes * bytes | bytes >> 12)] = now_;
  }
}

void Oracle::on_invlpg(Vcpu& vcpu, Gva va) {
  VcpuView& v = view(vcpu);
  flush_page(v, pcid(v), va.raw());
  flush_page(v, kGlobals, va.raw());
  v.upper_flush[pcid(v)] = now_;
}

void Oracle::on_invpcid(Vcpu& vcpu, InvpcidType type, u32 pcid, Gva va) {
  VcpuView& v = view(vcpu);
  switch (type) {
    case InvpcidType::Address:
      flush_page(v, pcid, va.raw());
      v.upper_flush[pcid] = now_;
      break;
    case InvpcidType::Context:
      v.pcid_flush[pcid] = now_;
      break;
    case InvpcidType::All:
      v.all_flush = now_;
      break;
    case InvpcidType::AllNonGlobal:
      v.nonglobal_flush = now_;
      break;
  }
}

}  // namespace mmuscope
