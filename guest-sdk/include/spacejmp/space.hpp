// Spaces, and visits to them: transactions that write, and views that do not move.
#ifndef SPACEJMP_SPACE_HPP
#define SPACEJMP_SPACE_HPP

#include <spacejmp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include <spacejmp/error.hpp>
#include <spacejmp/pointer.hpp>
#include <spacejmp/storable.hpp>
#include <spacejmp/type.hpp>

namespace sj {

enum class lifetime : std::uint8_t { persistent = SEG_PERSISTENT, until_unused = SEG_VOLATILE, versioned = SEG_VERSIONED };

// How a space is made. Opening one that exists needs none of it.
struct options {
    std::uint64_t size_bytes = 2u << 20;     // to begin with; it uses no storage until it is written to
    std::uint64_t reserve_bytes = 1ull << 40; // how far it may grow, by itself: addresses, not memory
    std::uint64_t base = 0;                   // of its data; 0: where no other segment of the store is
    std::uint32_t mode = 0600;                // as for a file; umask applies
    // `persistent` and `until_unused` are raw: a visit that throws leaves what it has changed.
    sj::lifetime lifetime = sj::lifetime::versioned;
    std::uint16_t durability = SEG_DURABLE_DEFAULT; // or SEG_DURABLE_EVERY(ms), _MANUAL, _EACH
};

namespace detail {

// A VAS with its data segment, and two instances of it: one to read, and one to write if that was asked for.
class opened {
  public:
    // `type` is that of the root object.
    opened(std::string name, vasid_t vid, const sj_type *type) : name_(std::move(name)), vid_(vid), type_(type) {}
    opened(const opened &) = delete;
    opened &operator=(const opened &) = delete;
    // A thread that is inside keeps its instance (EBUSY), until the program ends.
    ~opened() {
        for (vhandle_t vh : {reading_, writing_})
            if (vh != -1)
                vas_detach(vh);
    }

    const std::string &name() const { return name_; }
    vasid_t vid() const { return vid_; }
    segid_t sid() const { return segment_.sid; }
    bool is_versioned() const { return segment_.lifetime == SEG_VERSIONED; }
    range addresses() const { return {segment_.base, segment_.base + segment_.reserve_bytes}; }
    void *root() const { return reinterpret_cast<void *>(root_.address); }
    std::string doing(const char *what) const { return std::string(what) + " space '" + name_ + "'"; }

    // An instance, attached when it is first asked for. Threads may ask at the same time.
    vhandle_t instance(bool to_write) {
        std::lock_guard<std::mutex> held(attaching_);
        vhandle_t &vh = to_write ? writing_ : reading_;
        if (to_write && segment_.sid != 0 && right_ != SEG_WRITE)
            fail(doing("write to"), EACCES);
        if (vh == -1)
            vh = vas_attach(vid_, VAS_ATTACH_PINNED | (to_write ? 0 : VAS_ATTACH_READ_ONLY));
        if (vh == -1)
            fail(doing(to_write ? "attach, to write," : "attach"));
        return vh;
    }

    // Inside, while no other thread uses this object: the root object that visits rely on is the one that is there
    // now. Throws wrong_type; sj::error with ENODATA, there is none.
    void find_root() {
        void *root = vas_root(type_);
        if (root == nullptr && errno == EPROTOTYPE) {
            std::string found(1 << 16, '\0');
            std::int64_t length = vas_root_text(found.data(), found.size());
            found.resize(length < 0 ? 0 : std::min(found.size() - 1, static_cast<std::size_t>(length)));
            throw wrong_type(doing("open") + ": its root object is of another type: " +
                             difference(type_text(type_), found));
        }
        // No root object, or no heap for one.
        if (root == nullptr && (errno == ENODATA || errno == ENOENT))
            fail(doing("open") + ": it was not made completely; open_or_create completes it", ENODATA);
        if (root == nullptr)
            fail(doing("open"));
        find_segment(reinterpret_cast<std::uintptr_t>(root));
    }

    // The data segment of a space that is being made.
    void set_segment(segid_t sid) {
        right_ = SEG_WRITE;
        if (seg_stat(sid, &segment_) != 0)
            fail(doing("make"));
    }
    bool is_inconsistent() const { return segment_.inconsistent; }

    bool has_root() const { return vas_root_is(&root_) == 1; }

  private:
    // The segment that has the root object.
    void find_segment(std::uint64_t root) {
        vas_attachment listed[16];
        std::int64_t count;
        for (std::uint64_t cursor = 0; (count = vas_segments(vid_, listed, 16, cursor)) > 0; cursor += count)
            for (std::int64_t at = 0; at < count; at++)
                if (seg_root_get(listed[at].sid, &root_) == 0 && root_.address == root) {
                    right_ = listed[at].right;
                    if (seg_stat(listed[at].sid, &segment_) != 0)
                        fail(doing("open"));
                    return;
                }
        throw error(ESTALE, doing("open") + ": its segments have changed meanwhile");
    }

    std::string name_;
    vasid_t vid_;
    const sj_type *type_;
    std::mutex attaching_;
    vhandle_t reading_ = -1;
    vhandle_t writing_ = -1;
    struct seg_root root_ = {};
    struct seg_stat segment_ = {};
    std::uint64_t right_ = 0;
};

// How many visits the thread is in.
inline thread_local unsigned visits = 0;

// The thread is inside from the constructor until `leave` or the destructor. Visits nest: the outer one is
// suspended meanwhile. The switches are vas_switch of spacejmp.h, so a thread that is in a visit must not
// call that itself.
class visit {
  public:
    visit(opened &space, bool to_write) : space_(space), outer_(here), to_write_(to_write) {
        vhandle_t vh = space.instance(to_write);
        int entered = visits == 0 ? vas_switch(vh) : vas_nest(vh, VAS_NO_LIMIT);
        if (entered != 0 && errno != EOWNERDEAD)
            fail(space.doing("enter"));
        owner_died_ = entered != 0;
        visits++;
        here = space.addresses();
        is_inside_ = true;
    }
    visit(const visit &) = delete;
    visit &operator=(const visit &) = delete;
    ~visit() {
        if (is_inside_)
            give_up();
    }

    bool has_dead_owner() const { return owner_died_; }

    // Leaves; what was changed is committed. Throws if it cannot be: then it is thrown away.
    void leave() {
        if (leave_once() == 0)
            return;
        int number = errno;
        give_up();
        fail(space_.doing("commit a change of"), number);
    }

    // Leaves; what was changed is thrown away in a versioned space. A raw one has been left half changed: the next
    // writer is told.
    void give_up() noexcept {
        if (to_write_) {
            int result = space_.is_versioned() ? vas_abort()
                                               : seg_ctl(space_.sid(), SEG_CTL_MARK_INCONSISTENT, 0);
            if (result != 0)
                give_up_all("a change that was not completed cannot be taken back");
        }
        if (leave_once() != 0)
            give_up_all("a visit cannot be left");
    }

  private:
    int leave_once() noexcept {
        int result = visits == 1 ? vas_switch(VAS_HOME) : vas_return() == -1 ? -1 : 0;
        if (result == 0) {
            is_inside_ = false;
            visits--;
            here = outer_;
        }
        return result;
    }

    // To go on inside, or to commit half a change, would be worse: what is not committed ends with the program.
    [[noreturn]] void give_up_all(const char *why) noexcept {
        std::fprintf(stderr, "spacejmp: space '%s': %s: %s; the program ends\n", space_.name().c_str(), why,
                     std::strerror(errno));
        std::abort();
    }

    opened &space_;
    range outer_;
    bool to_write_;
    bool is_inside_ = false;
    bool owner_died_ = false;
};

} // namespace detail

template <class Root> class space;

// A transaction: the thread is inside, alone to write, until `commit`, or the end of the object's life, which
// without `commit` takes back what was changed.
template <class Root> class writing {
  public:
    explicit writing(space<Root> &space);
    Root &operator*() const { return *root_; }
    Root *operator->() const { return root_; }

    // Makes it the newest version, and leaves. Throws if it cannot be stored (ENOSPC, EDQUOT, EIO, EFBIG):
    // then nothing has changed.
    void commit() { visit_.leave(); }

  private:
    detail::visit visit_;
    Root *root_;
};

// A view: the thread is inside and sees one version, whatever others commit, until the end of the object's life.
template <class Root> class reading {
  public:
    explicit reading(const space<Root> &space);
    const Root &operator*() const { return *root_; }
    const Root *operator->() const { return root_; }

  private:
    detail::visit visit_;
    const Root *root_;
};

// A space, opened. Threads may use one object at the same time.
template <class Root> class space {
    static_assert(detail::must_be_storable<Root>(), "the root object cannot be stored");

  public:
    // Opens the space `name`; also a version of it, NAME@TAG or NAME@NUMBER, which can only be read. Throws
    // sj::error with ENOENT, EACCES, ...; wrong_type.
    static space open(const std::string &name) {
        space opened(name, found(name));
        opened.look();
        return opened;
    }

    // Makes the space `name`, a VAS and a segment of that name, with the root object `Root()`, which `init` may
    // fill: the first transaction. Throws sj::error with EEXIST, ...; what `init` throws: it is then there
    // without a root object, as after a kill, and open_or_create completes it.
    template <class Init> static space create(const std::string &name, const options &how, Init &&init) {
        if (vas_create(name.c_str(), how.mode) == 0)
            detail::fail("create space '" + name + "'");
        return completed(name, how, std::forward<Init>(init), false);
    }
    static space create(const std::string &name, const options &how = {}) {
        return create(name, how, [](Root &) {});
    }

    // Opens it, or makes it if there is none or none that is complete. Several programs may do so at the same
    // time: one of them calls `init`.
    template <class Init> static space open_or_create(const std::string &name, const options &how, Init &&init) {
        if (vas_find(name.c_str()) != 0) {
            // One that is complete is not entered to write: that would wait for whoever writes it.
            try {
                return open(name);
            } catch (const error &caught) {
                if (caught.code().value() != ENODATA)
                    throw;
            }
        } else if (errno != ENOENT) {
            detail::fail("open space '" + name + "'");
        } else if (vas_create(name.c_str(), how.mode) == 0 && errno != EEXIST) {
            detail::fail("create space '" + name + "'");
        }
        return completed(name, how, std::forward<Init>(init), true);
    }
    static space open_or_create(const std::string &name, const options &how = {}) {
        return open_or_create(name, how, [](Root &) {});
    }

    // Calls `change(Root &)` inside, alone to write. What it has changed is committed when it returns; if it
    // throws, nothing has changed. Its result is moved out; see may_leave.
    template <class Change> auto write(Change &&change) {
        using Result = std::invoke_result_t<Change, Root &>;
        static_assert(detail::may_leave<Result>(), "");
        writing<Root> visit(*this);
        if constexpr (std::is_void_v<Result>) {
            std::forward<Change>(change)(*visit);
            visit.commit();
        } else {
            Result result = std::forward<Change>(change)(*visit);
            visit.commit();
            return result;
        }
    }

    // Calls `look(const Root &)` inside: it sees the newest version, and waits for nobody.
    template <class Look> auto read(Look &&look) const {
        using Result = std::invoke_result_t<Look, const Root &>;
        static_assert(detail::may_leave<Result>(), "");
        reading<Root> visit(*this);
        if constexpr (std::is_void_v<Result>) {
            std::forward<Look>(look)(*visit);
        } else {
            Result result = std::forward<Look>(look)(*visit);
            return result;
        }
    }

    // Enters a raw space whose last writer died inside, calls `repair(Root &)`, and says that it is whole again.
    template <class Repair> void recover(Repair &&repair) {
        detail::visit visit(*state_, true);
        if (!state_->has_root())
            detail::fail(state_->doing("recover"), ESTALE);
        std::forward<Repair>(repair)(*static_cast<Root *>(state_->root()));
        if (visit.has_dead_owner() && seg_ctl(state_->sid(), SEG_CTL_RECOVER, 0) != 0)
            detail::fail(state_->doing("recover"));
        visit.leave();
    }

    const std::string &name() const { return state_->name(); }

    // The number of the newest version.
    std::uint64_t version() const { return checked(vas_version(state_->instance(false)), "ask the version of"); }

    // Waits until there is a version after `known`, and returns its number; `known` itself when the time is up.
    std::uint64_t wait_newer(std::uint64_t known, std::chrono::nanoseconds limit) const {
        std::int64_t version = vas_wait(state_->instance(false), known, limit.count());
        return version == -1 && errno == ETIMEDOUT ? known : checked(version, "wait for a version of");
    }

    // All that was committed before survives a power cut when this returns.
    void sync() const { checked(vas_sync(state_->instance(false)), "sync"); }

    // Keeps the newest version under a name, to be opened as NAME@TAG, in constant time.
    void tag(const std::string &tag) const {
        if (vas_tag(state_->vid(), tag.c_str()) == 0)
            detail::fail(state_->doing("tag") + " as '" + tag + "'");
    }

  private:
    friend class writing<Root>;
    friend class reading<Root>;

    space(const std::string &name, vasid_t vid)
        : state_(std::make_unique<detail::opened>(name, vid, detail::describe<Root>())) {}

    static vasid_t found(const std::string &name) {
        vasid_t vid = vas_find(name.c_str());
        if (vid == 0)
            detail::fail("open space '" + name + "'");
        return vid;
    }

    std::uint64_t checked(std::int64_t version, const char *what) const {
        if (version == -1)
            detail::fail(state_->doing(what));
        return static_cast<std::uint64_t>(version);
    }

    // Finds the root object for the visits that follow.
    void look() {
        detail::visit visit(*state_, false);
        state_->find_root();
    }

    // A root object in the VAS `name`, which is there; its segment may not be. The lock decides who makes it.
    template <class Init> static space completed(const std::string &name, const options &how, Init &&init, bool may_be_there) {
        space made(name, found(name));
        seg_params params = {};
        params.base = how.base;
        params.size_bytes = how.size_bytes;
        params.reserve_bytes = how.reserve_bytes < how.size_bytes ? how.size_bytes : how.reserve_bytes;
        params.mode = how.mode;
        params.lifetime = static_cast<std::uint8_t>(how.lifetime);
        params.lockable = 1;
        params.durability = how.durability;
        segid_t sid = seg_find(name.c_str());
        if (sid == 0 && errno == ENOENT) {
            sid = seg_alloc_params(name.c_str(), &params);
            if (sid == 0 && errno == EEXIST)
                sid = seg_find(name.c_str());
        }
        if (sid == 0)
            detail::fail(made.state_->doing("make the segment of"));
        if (seg_attach(made.state_->vid(), sid, SEG_WRITE) != 0 && errno != EEXIST)
            detail::fail(made.state_->doing("make"));
        made.state_->set_segment(sid);
        detail::visit visit(*made.state_, true);
        made.state_->set_segment(sid);
        seg_root root = {};
        if (seg_root_get(sid, &root) != 0)
            detail::fail(made.state_->doing("make"));
        if (root.address != 0) {
            if (!may_be_there)
                detail::fail(made.state_->doing("create"), EEXIST);
            made.state_->find_root();
            visit.leave();
            return made;
        }
        if (vas_heap_init(sid) != 0 && errno != EEXIST)
            detail::fail(made.state_->doing("make a heap in"));
        Root *object = make<Root>();
        std::forward<Init>(init)(*object);
        if (vas_set_root(object, detail::describe<Root>()) != 0)
            detail::fail(made.state_->doing("make"));
        if (made.state_->is_inconsistent() && seg_ctl(sid, SEG_CTL_RECOVER, 0) != 0)
            detail::fail(made.state_->doing("make"));
        made.state_->find_root();
        visit.leave();
        return made;
    }

    std::unique_ptr<detail::opened> state_;
};

namespace detail {

// The root object of a visit. A version that was rolled back to may have another, or none.
template <class Root> Root *root_of(opened &space, visit &visit) {
    if (visit.has_dead_owner())
        throw owner_died(space.doing("enter") + ": a writer died inside; `recover` it");
    if (!space.has_root())
        throw error(ESTALE, space.doing("enter") + ": its root object is another one since it was opened; open it anew");
    return static_cast<Root *>(space.root());
}

} // namespace detail

template <class Root>
writing<Root>::writing(space<Root> &space)
    : visit_(*space.state_, true), root_(detail::root_of<Root>(*space.state_, visit_)) {}

template <class Root>
reading<Root>::reading(const space<Root> &space)
    : visit_(*space.state_, false), root_(detail::root_of<const Root>(*space.state_, visit_)) {}

} // namespace sj

#endif
