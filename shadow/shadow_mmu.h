#pragma once

#include "core/mmu_lock.h"
#include "shadow/shadow_tables.h"

namespace mmuscope {

/// How a hypervisor keeps its shadows in step with the guest's tables: each field is one decision,
/// and the defaults are those of the plain pager that traps every write to a table.
struct ShadowPolicy {
  std::string_view name = "shadow";
  bool unsync = false;     ///< leaf tables may be written; synchronised when the guest flushes
  u32 unsync_pages = 0;    ///< tables that one vCPU may have out of sync at once; 0: any number
  bool propagate = false;  ///< an emulated write makes the new entry, not only drops the old one
  u32 prefetch = 1;        ///< entries filled at a fault, the faulting one included
  bool prefetch_forward = false;  ///< from the faulting entry on, not its aligned group
  u32 flood = 0;            ///< emulated writes without a walk that end a shadow page; 0: never
  u32 roots = 0;            ///< previous roots that a vCPU keeps
  bool large_pages = true;  ///< leaves may be larger than 4K
  bool zap_unsync_children = false;  ///< an upper page that goes takes its out-of-sync pages along
  u32 rmap_limit = 0;                ///< mappings of a frame beyond which all are dropped; 0: none
  u64 limit = 0;                     ///< shadow pages; 0: a 50th of the guest's pages, at least 64
};

/// Shadow paging: the hypervisor composes guest-virtual to host-physical tables from the guest's
/// tables and the memory map, entry by entry as faults ask for them, and the hardware walks these.
/// README.md in this folder is its description.
class ShadowMmu final : public Pager {
 public:
  ShadowMmu(Machine& machine, const ShadowPolicy& policy);

  Outcome walk(Vcpu& vcpu, Gva va, Access access) override;
  bool intercepts(ExitReason reason) const override;
  Controls hardware_controls(const Controls& guest) const override;
  void start(Vcpu& vcpu) override;
  void controls_changed(Vcpu& vcpu) override;
  Resume handle(Vcpu& vcpu, const VmExit& exit) override;
  Gauges gauges() const override;
  TableUse table_use(std::span<const Gpa> roots) const override;
  void log_dirty(bool on) override;
  u64 harvest_dirty() override;
  void limit_shadow_pages(u64 pages) override;
  void forget(Gfn first, u64 frames, Shootdown& owed) override;

  const ShadowTables& tables() const { return tables_; }  // for the audit

 private:
  /// One root that a vCPU holds: the guest CR3 that it serves, PCID included, and its shadow.
  struct Root {
    ShadowPage* page = nullptr;
    u64 cr3 = 0;
  };
  struct PerVcpu {
    Root root;
    std::vector<Root> previous;  // most recently left first
    // Asked for, and done when the vCPU next enters the guest.
    bool sync_asked = false;
    bool roots_obsolete = false;
    UnsyncList unsync;  // tables that it took out of sync, oldest first
  };
  enum class Filled : u8 { Fixed, Spurious, WriteProtected };
  /// One hidden fault on its way to the shadow tables.
  struct Fault {
    Vcpu& vcpu;
    Gva va;
    Access access;
    WalkPath<GuestFormat> path;  // of the guest's own tables, permitted
    Gfn gfn;                     // of the page wanted
    u8 rights = 0;               // that the leaf may grant
  };

  template <class Memory, class Listener>
  Outcome walk_told(Vcpu& vcpu, Gva va, Access access, Memory& memory, Listener& listener);
  PerVcpu& state(const Vcpu& v) { return vcpus_[v.index()]; }
  // Whose work is done: a vCPU's that has exited, or the host's own (null).
  Counters& counters(Vcpu* v) { return (v != nullptr ? *v : machine_.vcpu(0)).counters; }
  /// Flushes every vCPU if anything is owed.
  void flush_owed(Vcpu* v, Shootdown& owed);
  /// Flushes if anything was taken down or is owed, then frees what was taken down.
  void finish(Vcpu* v, Zapped& zapped);
  void zap(Vcpu* v, ShadowPage& page, Zapped& zapped);
  void mark_dirty(Gfn gfn);

  // --- page faults: shadow_fill.cpp
  Resume page_fault(Vcpu& v, const VmExit& exit);
  Filled fill_locked(Fault& f);
  Filled fill(Fault& f);
  ShadowPage& page_for(Vcpu& v, Gfn gfn, const Role& role);
  ShadowPage& child_for(Vcpu& v, ShadowPage& parent, unsigned i, Gfn gfn, bool direct, u8 access);
  ShadowPage* present_child(const ShadowPage& parent, unsigned i) const;
  void link(Vcpu& v, ShadowPage& parent, unsigned i, ShadowPage& child);
  PageSize leaf_size_for(const Fault& f, Hfn& frame);
  /// A leaf entry for the frame; `write_protected` says that rights were withheld for a table's
  /// sake.
  struct LeafWish {
    Gfn gfn;
    Hfn frame;
    u8 rights;
    bool write_fault = false;
    bool prefetch = false;
    bool synchronizing = false;
  };
  u64 make_leaf(Vcpu& v, const ShadowPage& page, u64 old, const LeafWish& wish,
                bool& write_protected);
  bool may_write(Vcpu& v, Gfn gfn, const LeafWish& wish);
  Filled set_leaf(Vcpu& v, ShadowPage& page, unsigned i, const LeafWish& wish);
  void prefetch(Vcpu& v, ShadowPage& page, unsigned i);
  bool prefetch_guest(Vcpu& v, ShadowPage& page, unsigned i);
  bool prefetch_direct(Vcpu& v, ShadowPage& page, unsigned i);
  void make_room(Vcpu& v);
  u64 zap_oldest(Vcpu* v, u64 pages);

  // --- writes to guest tables: table_write.cpp
  Resume write_protected(Vcpu& v, const VmExit& exit, Gpa gpa);
  void drop_shadows(Vcpu& v, Gfn gfn);
  void table_written(Vcpu& v, Gpa gpa, unsigned bytes);
  void propagate(Vcpu& v, ShadowPage& page, unsigned i);
  bool is_flooded(ShadowPage& page) const;
  void clear_flood_counts(Vcpu& v, Gva va);

  // --- roots and control registers: shadow_roots.cpp
  void enter(Vcpu& v);
  void load_root(Vcpu& v);
  void free_roots(Vcpu& v, bool current, const std::function<bool(const Root&)>& previous);
  bool find_cached_root(Vcpu& v, u64 cr3);
  Resume write_cr3(Vcpu& v, u64 value);
  Resume invlpg(Vcpu& v, Gva va);
  Resume invpcid(Vcpu& v, const VmExit& exit);
  Resume write_controls(Vcpu& v, const Controls& to);
  void flush_guest_context(Vcpu& v, u32 pcid);
  void flush_guest_all(Vcpu& v);
  void flush_vcpu(Vcpu& v);
  void invalidate_before_fault(Vcpu& v, Gva va);
  void invalidate_address(Vcpu& v, const Root& root, Gva va);

  // --- tables out of sync: shadow_sync.cpp
  void sync_roots(Vcpu& v);
  void sync_children(Vcpu& v, ShadowPage& top);
  void sync_own_pages(Vcpu& v, std::size_t keep);
  void sync_page(Vcpu& v, ShadowPage& page, Shootdown& owed);
  void sync_entry(Vcpu& v, ShadowPage& page, unsigned i, Shootdown& owed);
  /// What the guest entry of a leaf table grants, or nothing if a shadow may not be made of it.
  struct GuestLeaf {
    Gfn gfn;
    u8 rights;
  };
  WalkRules rules_of(const Vcpu& v, const ShadowPage& page) const;
  std::optional<GuestLeaf> read_guest_leaf(Vcpu& v, const ShadowPage& page, unsigned i);

  Machine& machine_;
  MmuLock lock_;
  const ShadowPolicy policy_;
  u64 limit_;
  ShadowTables tables_;
  std::vector<PerVcpu> vcpus_;
  u64 pages_peak_ = 0, bytes_peak_ = 0;
  bool logging_dirty_ = false;
  std::vector<bool> dirty_;  // by guest frame
};

/// The role of a root under these controls.
Role root_role(const Controls& c);

}  // namespace mmuscope
