// A store: strings in a tree and in vectors, some of them dropped again, by four threads.
#include <cstdio>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

static std::map<int, std::string> tree;
static std::vector<std::vector<double>> series;
static std::mutex mutex;

static void serve(unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 20000; i++) {
        std::string value(16 + random() % 900, 'x');
        std::vector<double> row;
        for (int n = random() % 60; n >= 0; n--) row.push_back(n);
        std::lock_guard<std::mutex> hold(mutex);
        tree[random() % 20000] = value;
        if (i % 4 == 0) series.push_back(row);
        if (i % 9 == 0 && !tree.empty()) tree.erase(tree.begin());
    }
}

int main() {
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; seed++) threads.emplace_back(serve, seed);
    for (auto &thread : threads) thread.join();
    putchar('!');
    fflush(stdout);
    getchar();
}
