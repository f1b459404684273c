// Remembers every text it was ever given.
//
// The texts are in an address space, in ordinary containers. Nothing is saved or loaded: the next run goes on
// where this one ends. See <spacejmp.hpp>.
#include <spacejmp.hpp>

#include <iostream>

// Changes of these types are refused when the space is opened, until it is made anew.
struct entry {
    sj::string text;
    std::uint64_t times = 0;
};
SJ_FIELDS(entry, text, times)

// The root object, from which everything in the space is reached.
struct diary {
    sj::vector<entry> entries;
    sj::unordered_map<sj::string, std::uint64_t> places; // of each text in `entries`
};
SJ_FIELDS(diary, entries, places)

static void add(diary &it, const char *text) {
    auto [place, is_new] = it.places.try_emplace(text, it.entries.size());
    if (is_new)
        it.entries.push_back({text, 0});
    it.entries[place->second].times++;
}

int main(int argc, char **argv) try {
    auto space = sj::space<diary>::open_or_create("{{name}}");
    // One transaction: all of the texts, or, if anything throws, none.
    if (argc > 1)
        space.write([&](diary &it) {
            for (int n = 1; n < argc; n++)
                add(it, argv[n]);
        });
    // One version of it, whatever other programs change meanwhile.
    space.read([](const diary &it) {
        std::cout << it.entries.size() << (it.entries.size() == 1 ? " text\n" : " texts\n");
        for (const entry &one : it.entries)
            std::cout << one.times << " x " << one.text << "\n";
    });
    return 0;
} catch (const std::exception &caught) {
    std::cerr << "{{name}}: " << caught.what() << "\n";
    return 1;
}
