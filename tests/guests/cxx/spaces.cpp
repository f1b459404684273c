// What spacejmp.hpp promises of spaces and visits. `spaces all` prints `ok`.
//
// `spaces model N` brings a space to step N of a sequence of random changes, and compares all of it with what the
// same steps make of the standard library's own containers, at home. `spaces move` moves money until it is
// killed, `spaces sum` adds it up. `spaces visits READS WRITES` only makes visits.
#include <spacejmp.hpp>

#include <atomic>
#include <cstdio>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

#define MUST(condition)                                                                                \
    do {                                                                                               \
        if (!(condition))                                                                              \
            throw std::logic_error("line " + std::to_string(__LINE__) + ": " #condition);              \
    } while (0)

// Whether `action` throws an `Error` whose text contains `text`.
template <class Error, class Action> bool throws(const char *text, Action action) {
    try {
        action();
    } catch (const Error &caught) {
        if (std::string(caught.what()).find(text) != std::string::npos)
            return true;
        std::fprintf(stderr, "instead: %s\n", caught.what());
    }
    return false;
}

struct place {
    double x = 0, y = 0;
};
SJ_FIELDS(place, x, y)

struct person {
    sj::string name;
    sj::vector<place> been;
    sj::vas_ptr<person> friend_of;
    std::optional<std::int32_t> age;
};
SJ_FIELDS(person, name, been, friend_of, age)

struct world {
    sj::map<sj::string, person> people;
    sj::unordered_map<std::uint64_t, sj::string> by_number;
    sj::unique<person> mayor;
    std::uint64_t changes = 0;
};
SJ_FIELDS(world, people, by_number, mayor, changes)

using space = sj::space<world>;

struct stop : std::runtime_error {
    stop() : std::runtime_error("stop") {}
};

void transactions() {
    MUST(throws<sj::error>("open space 'world': No such file", [] { space::open("world"); }));
    auto it = space::create("world", {}, [](world &w) {
        w.people["Emma"].name = "Emma, whose name is too long for the string itself";
        w.mayor = sj::make_unique<person>();
        w.mayor->age = 40;
    });
    MUST(throws<sj::error>("File exists", [] { space::create("world"); }));
    std::string name = it.read([](const world &w) { return std::string(w.people.find("Emma")->second.name); });
    MUST(name == "Emma, whose name is too long for the string itself");
    // What throws has changed nothing, whatever it has allocated and freed.
    auto before = it.version();
    MUST(throws<stop>("", [&] {
        it.write([](world &w) {
            w.people.clear();
            w.mayor.reset();
            for (std::uint64_t n = 0; n < 1000; n++)
                w.by_number[n] = std::to_string(n).c_str();
            throw stop();
        });
    }));
    MUST(it.version() == before && vas_current() == VAS_HOME);
    it.read([](const world &w) {
        MUST(w.people.size() == 1 && w.by_number.empty() && *w.mayor->age == 40);
    });
    // The same without a commit, and with one.
    {
        sj::writing<world> tx(it);
        tx->changes = 7;
    }
    {
        sj::writing<world> tx(it);
        MUST(tx->changes == 0);
        tx->changes = 8;
        tx.commit();
    }
    MUST(it.read([](const world &w) { return w.changes; }) == 8 && it.version() == before + 1);
    it.tag("eight");
    it.write([](world &w) { w.changes++; });
    it.sync();
    auto old = space::open("world@eight");
    MUST(old.read([](const world &w) { return w.changes; }) == 8);
    MUST(throws<sj::error>("Permission denied", [&] { old.write([](world &) {}); }));
    MUST(it.wait_newer(it.version() - 1, std::chrono::seconds(60)) == it.version());
    MUST(it.wait_newer(it.version(), std::chrono::milliseconds(1)) == it.version());
}

void where_memory_comes_from() {
    auto it = space::open("world");
    MUST(throws<sj::error>("only inside `write`", [] { sj::make<person>(); }));
    MUST(throws<sj::error>("only inside `write`", [&] { it.read([](const world &) { sj::make<person>(); }); }));
    person at_home;
    it.write([&](world &w) {
        MUST(throws<std::invalid_argument>("vas_ptr", [&] { sj::vas_ptr<person> p(&at_home); }));
        w.people["Emma"].friend_of = w.mayor.get();
        struct alignas(64) line {
            char bytes[64];
        };
        line *aligned = sj::make<line>();
        MUST(reinterpret_cast<std::uintptr_t>(aligned) % 64 == 0);
        sj::destroy(aligned);
        struct fails {
            fails() { throw stop(); }
        };
        MUST(throws<stop>("", [] { sj::make<fails>(); }));
        sj::scratch memory;
        std::pmr::vector<int> numbers(10000, 3, &memory);
        MUST(vas_usable_size(numbers.data()) >= 40000);
    });
    vas_heap_stat stat;
    it.read([&](const world &) { MUST(vas_heap_check(&stat) == 0 && stat.leaked_blocks == 0); });
    // A space that is full is std::bad_alloc, and the transaction is none.
    sj::options little;
    little.size_bytes = little.reserve_bytes = 2u << 20;
    auto small = sj::space<sj::directory>::create("small", little);
    auto fill = [](sj::directory &d) { d.construct<sj::vector<char>>("much", std::size_t(4) << 20, 'x'); };
    MUST(throws<std::bad_alloc>("", [&] { small.write(fill); }));
    MUST(small.read([](const sj::directory &d) { return d.size(); }) == 0);
}

void nested_visits() {
    auto it = space::open("world");
    auto other = sj::space<sj::directory>::open_or_create("others");
    it.write([&](world &w) {
        w.changes = 100;
        // Not committed yet, so others see the version before.
        MUST(it.read([](const world &seen) { return seen.changes; }) == 9);
        // Nor does opening one that is there wait for who writes it.
        MUST(space::open_or_create("world").read([](const world &seen) { return seen.changes; }) == 9);
        other.write([](sj::directory &d) { d.construct<std::uint64_t>("n", 5u); });
        MUST(throws<stop>("", [&] {
            other.write([](sj::directory &d) {
                *d.find<std::uint64_t>("n") = 6;
                throw stop();
            });
        }));
        MUST(w.changes == 100);
        w.people["Ada"].name = "Ada";
    });
    MUST(it.read([](const world &w) { return w.changes + w.people.size(); }) == 102);
    MUST(other.read([](const sj::directory &d) { return *d.find<std::uint64_t>("n"); }) == 5);
}

// As a program that is killed at once leaves it: a VAS, and a segment without a heap.
void what_was_not_made_completely() {
    vasid_t vid = vas_create("half", 0600);
    MUST(vid != 0);
    MUST(throws<sj::error>("not made completely", [] { sj::space<sj::directory>::open("half"); }));
    segid_t sid = seg_alloc("half", 0, 2u << 20, 0600);
    MUST(sid != 0 && seg_ctl(sid, SEG_CTL_SET_LOCKABLE, 1) == 0 && seg_attach(vid, sid, SEG_WRITE) == 0);
    MUST(throws<sj::error>("not made completely", [] { sj::space<sj::directory>::open("half"); }));
    auto it = sj::space<sj::directory>::open_or_create("half");
    it.write([](sj::directory &d) { d.construct<int>("n", 3); });
    MUST(sj::space<sj::directory>::open("half").read([](const sj::directory &d) { return *d.find<int>("n"); }) == 3);
}

void named_objects() {
    auto it = sj::space<sj::directory>::open_or_create("others");
    it.write([](sj::directory &d) {
        MUST(d.find<world>("nothing") == nullptr && !d.destroy<world>("nothing"));
        d.construct<sj::map<sj::string, int>>("words")["one"] = 1;
        MUST(throws<sj::error>("there is an object of that name", [&] { d.construct<int>("words"); }));
        d.find_or_construct<sj::map<sj::string, int>>("words")["two"] = 2;
        MUST(throws<sj::wrong_type>("find 'words': it is of another type", [&] { d.find<int>("words"); }));
        MUST(d.destroy<std::uint64_t>("n") && d.size() == 1);
    });
    auto two = it.read([](const sj::directory &d) {
        return d.find<sj::map<sj::string, int>>("words")->find("two")->second;
    });
    MUST(two == 2);
}

namespace later {
// The same structure, changed.
struct place {
    double x = 0, y = 0, z = 0;
};
SJ_FIELDS(place, x, y, z)
struct person {
    sj::string name;
    sj::vector<place> been;
    sj::vas_ptr<person> friend_of;
    std::optional<std::int32_t> age;
};
SJ_FIELDS(person, name, been, friend_of, age)
struct world {
    sj::map<sj::string, person> people;
    sj::unordered_map<std::uint64_t, sj::string> by_number;
    sj::unique<person> mayor;
    std::uint64_t changes = 0;
};
SJ_FIELDS(world, people, by_number, mayor, changes)
} // namespace later

void other_types_are_refused() {
    MUST(throws<sj::wrong_type>("open space 'world'", [] { sj::space<sj::directory>::open("world"); }));
    MUST(throws<sj::wrong_type>("struct place (24 bytes", [] { sj::space<later::world>::open("world"); }));
    MUST(throws<sj::wrong_type>("open space 'world'", [] { sj::space<later::world>::open_or_create("world"); }));
    MUST(vas_current() == VAS_HOME);
}

void threads_see_whole_versions() {
    auto it = sj::space<sj::directory>::open_or_create("threads");
    it.write([](sj::directory &d) { d.construct<sj::vector<std::int64_t>>("v", std::size_t(100), 10); });
    std::atomic<bool> done = false;
    std::vector<std::thread> readers;
    std::atomic<unsigned> wrong = 0;
    for (int n = 0; n < 3; n++)
        readers.emplace_back([&] {
            while (!done)
                it.read([&](const sj::directory &d) {
                    std::int64_t sum = 0;
                    for (std::int64_t value : *d.find<sj::vector<std::int64_t>>("v"))
                        sum += value;
                    wrong += sum != 1000;
                });
        });
    std::mt19937 random(1);
    for (int n = 0; n < 200; n++)
        it.write([&](sj::directory &d) {
            auto &v = *d.find<sj::vector<std::int64_t>>("v");
            v[random() % 100] += 5;
            v[random() % 100] -= 5;
        });
    done = true;
    for (auto &reader : readers)
        reader.join();
    MUST(wrong == 0);
}

// ---- a model ----

struct state {
    sj::map<std::uint32_t, sj::string> ordered;
    sj::unordered_map<sj::string, std::uint32_t> hashed;
    sj::vector<sj::deque<std::uint32_t>> rows;
    sj::list<sj::string> texts;
    std::uint32_t step = 0;
};
SJ_FIELDS(state, ordered, hashed, rows, texts, step)

struct plain_state {
    std::map<std::uint32_t, std::string> ordered;
    std::unordered_map<std::string, std::uint32_t> hashed;
    std::vector<std::deque<std::uint32_t>> rows;
    std::list<std::string> texts;
    std::uint32_t step = 0;
};

template <class State> void change(State &s) {
    std::mt19937 random(s.step);
    for (int n = 0; n < 50; n++) {
        std::uint32_t number = random() % 200;
        std::string text(random() % 60, static_cast<char>('a' + number % 26));
        text += std::to_string(number);
        switch (random() % 8) {
        case 0: s.ordered[number] = text.c_str(); break;
        case 1: s.ordered.erase(number); break;
        case 2: s.hashed[text.c_str()] = number; break;
        case 3: s.hashed.erase(text.c_str()); break;
        case 4: s.rows.resize(number % 20 + 1); s.rows[number % (number % 20 + 1)].push_back(number); break;
        case 5: if (!s.rows.empty() && !s.rows.back().empty()) s.rows.back().pop_front(); break;
        case 6: s.texts.emplace_front(text.c_str()); break;
        default: if (!s.texts.empty()) s.texts.pop_back(); s.texts.sort(); break;
        }
    }
    s.step++;
}

bool equal(const state &a, const plain_state &b) {
    auto same = [](const auto &x, const auto &y) {
        return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto &p, const auto &q) {
            return std::string_view(p) == std::string_view(q);
        });
    };
    bool hashed = a.hashed.size() == b.hashed.size();
    for (const auto &[text, number] : b.hashed) {
        auto found = a.hashed.find(sj::string(text.c_str()));
        hashed = hashed && found != a.hashed.end() && found->second == number;
    }
    return hashed && a.step == b.step && same(a.texts, b.texts) &&
           std::equal(a.ordered.begin(), a.ordered.end(), b.ordered.begin(), b.ordered.end(),
                      [](const auto &p, const auto &q) {
                          return p.first == q.first && std::string_view(p.second) == q.second;
                      }) &&
           std::equal(a.rows.begin(), a.rows.end(), b.rows.begin(), b.rows.end(), [](const auto &p, const auto &q) {
               return std::equal(p.begin(), p.end(), q.begin(), q.end());
           });
}

int model(std::uint32_t steps) {
    auto it = sj::space<state>::open_or_create("model");
    plain_state plain;
    while (plain.step < steps) {
        // Every third is tried, and fails at its end.
        if (plain.step % 3 == 2)
            MUST(throws<stop>("", [&] {
                it.write([&](state &s) {
                    if (s.step == plain.step) {
                        change(s);
                        change(s);
                    }
                    throw stop();
                });
            }));
        it.write([&](state &s) {
            if (s.step == plain.step)
                change(s);
        });
        change(plain);
    }
    // A key of the space's type is longer than what fits into the string itself: looked for inside `write`.
    it.write([&](state &s) {
        MUST(equal(s, plain));
        vas_heap_stat stat;
        MUST(vas_heap_check(&stat) == 0 && stat.leaked_blocks == 0);
    });
    std::puts("equal");
    return 0;
}

// ---- money ----

struct account {
    sj::string owner;
    std::int64_t cents = 0;
    sj::vector<std::int64_t> moved;
};
SJ_FIELDS(account, owner, cents, moved)
struct bank {
    sj::vector<account> accounts;
};
SJ_FIELDS(bank, accounts)

sj::space<bank> open_bank() {
    return sj::space<bank>::open_or_create("bank", {}, [](bank &b) {
        b.accounts.resize(50);
        for (account &it : b.accounts)
            it.cents = 1000;
    });
}

[[noreturn]] void move_money() {
    auto it = open_bank();
    std::random_device seed;
    std::mt19937 random(seed());
    std::puts("moving");
    std::fflush(stdout);
    for (;;)
        it.write([&](bank &b) {
            account &from = b.accounts[random() % 50], &to = b.accounts[random() % 50];
            from.cents -= 7;
            from.moved.push_back(-7);
            to.cents += 7;
            to.moved.push_back(7);
        });
}

int sum() {
    auto it = open_bank();
    it.read([](const bank &b) {
        std::int64_t sum = 0, moved = 0;
        for (const account &one : b.accounts) {
            sum += one.cents;
            for (std::int64_t cents : one.moved)
                moved += cents;
        }
        std::printf("%lld %lld\n", static_cast<long long>(sum), static_cast<long long>(moved));
    });
    return 0;
}

int visits(int reads, int writes) {
    auto it = open_bank();
    std::int64_t sum = 0;
    for (int n = 0; n < reads; n++)
        sum += it.read([](const bank &b) { return b.accounts[3].cents; });
    for (int n = 0; n < writes; n++)
        it.write([](bank &b) { b.accounts[3].cents++; });
    return sum < 0;
}

} // namespace

int main(int argc, char **argv) try {
    std::string command = argc > 1 ? argv[1] : "";
    if (command == "all") {
        transactions();
        where_memory_comes_from();
        nested_visits();
        what_was_not_made_completely();
        named_objects();
        other_types_are_refused();
        threads_see_whole_versions();
        std::puts("ok");
        return 0;
    }
    if (command == "model" && argc == 3)
        return model(static_cast<std::uint32_t>(std::stoul(argv[2])));
    if (command == "move")
        move_money();
    if (command == "sum")
        return sum();
    if (command == "visits" && argc == 4)
        return visits(std::atoi(argv[2]), std::atoi(argv[3]));
    return 2;
} catch (const std::exception &caught) {
    std::fprintf(stderr, "FAILED %s\n", caught.what());
    return 1;
}
