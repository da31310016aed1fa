#include "communities.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace rag {

namespace {

// A graph of groups of nodes on one level, with its own arrays.
struct Level {
    std::vector<int64_t> offsets;
    std::vector<Node> targets;
    std::vector<double> weights;
    std::vector<double> strengths;  // of all edges of the nodes in a group

    size_t nodes() const { return strengths.size(); }
};

Level first_level(const Adjacency& graph) {
    Level level;
    level.offsets.assign(graph.offsets().begin(), graph.offsets().end());
    level.targets.reserve(graph.edges());
    level.weights.reserve(graph.edges());
    level.strengths.resize(graph.nodes());
    for (size_t node = 0; node < graph.nodes(); ++node) {
        const auto targets = graph.targets(static_cast<Node>(node));
        for (size_t at = 0; at < targets.size(); ++at) {
            const double weight = graph.weight(static_cast<Node>(node), at);
            level.targets.push_back(targets[at]);
            level.weights.push_back(weight);
            level.strengths[node] += weight;
        }
    }
    return level;
}

// Numbers groups by their first nodes; returns how many there are.
size_t renumber(std::vector<Node>& of) {
    if (of.empty()) return 0;
    std::vector<Node> numbers(static_cast<size_t>(*std::max_element(of.begin(), of.end())) + 1, -1);
    Node count = 0;
    for (Node& group : of) {
        if (numbers[group] < 0) numbers[group] = count++;
        group = numbers[group];
    }
    return static_cast<size_t>(count);
}

// The groups of a level as nodes of the next, edges between two of them added up.
Level merged(const Level& level, const std::vector<Node>& of, size_t count) {
    std::vector<int64_t> starts(count + 1);
    for (const Node group : of) ++starts[group + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<Node> members(of.size());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (size_t node = 0; node < of.size(); ++node) members[next[of[node]]++] = static_cast<Node>(node);
    Level result;
    result.offsets.assign(1, 0);
    result.strengths.assign(count, 0.0);
    std::vector<double> weight(count);
    std::vector<uint8_t> seen(count);
    std::vector<Node> touched;
    for (size_t group = 0; group < count; ++group) {
        for (int64_t at = starts[group]; at < starts[group + 1]; ++at) {
            const Node node = members[at];
            result.strengths[group] += level.strengths[node];
            for (int64_t edge = level.offsets[node]; edge < level.offsets[node + 1]; ++edge) {
                const Node to = of[level.targets[edge]];
                if (!seen[to]) seen[to] = 1, touched.push_back(to);
                weight[to] += level.weights[edge];
            }
        }
        std::sort(touched.begin(), touched.end());
        for (const Node to : touched) {
            result.targets.push_back(to);
            result.weights.push_back(std::exchange(weight[to], 0.0));
            seen[to] = 0;
        }
        touched.clear();
        result.offsets.push_back(static_cast<int64_t>(result.targets.size()));
    }
    return result;
}

class Optimiser {
public:
    Optimiser(const CommunityForm& form, double total, const Interrupt& interrupt)
        : form_(form), total_(total), random_(form.seed), interrupt_(interrupt) {}

    // Moves single nodes to the neighbouring community that gains most, while any gains; true when any moved.
    bool move(const Level& level, std::vector<Node>& of) {
        const size_t nodes = level.nodes();
        std::vector<double> strength(nodes), toward(nodes);
        for (size_t node = 0; node < nodes; ++node) strength[of[node]] += level.strengths[node];
        std::vector<size_t> sizes(nodes);
        for (const Node group : of) ++sizes[group];
        std::vector<Node> empty;
        for (size_t group = 0; group < nodes; ++group) {
            if (!sizes[group]) empty.push_back(static_cast<Node>(group));
        }
        std::vector<Node> queue = shuffled(nodes), touched;
        std::vector<uint8_t> waiting(nodes, 1);
        bool any = false;
        for (size_t at = 0; at < queue.size(); ++at) {
            if ((at & 0xffff) == 0xffff) interrupt_();
            const Node node = queue[at];
            waiting[node] = 0;
            const Node from = of[node];
            const double own = level.strengths[node];
            touched.assign(1, from);
            for (int64_t edge = level.offsets[node]; edge < level.offsets[node + 1]; ++edge) {
                const Node to = level.targets[edge];
                if (to == node) continue;
                const Node group = of[to];
                if (toward[group] == 0 && group != from) touched.push_back(group);
                toward[group] += level.weights[edge];
            }
            strength[from] -= own;
            Node best = from;
            double most = gain(toward[from], own, strength[from]);
            for (const Node group : touched) {
                const double here = gain(toward[group], own, strength[group]);
                if (here > most + kLeast * total_) most = here, best = group;
                toward[group] = 0;
            }
            if (most < -kLeast * total_ && !empty.empty()) best = empty.back();  // better alone
            strength[best] += own;
            if (best == from) continue;
            any = true;
            if (!empty.empty() && best == empty.back()) empty.pop_back();
            ++sizes[best];
            if (!--sizes[from]) empty.push_back(from);
            of[node] = best;
            for (int64_t edge = level.offsets[node]; edge < level.offsets[node + 1]; ++edge) {
                const Node to = level.targets[edge];
                if (!waiting[to] && of[to] != best) waiting[to] = 1, queue.push_back(to);
            }
        }
        return any;
    }

    // Splits communities into parts that hold together: every node begins alone, and joins once a part of its community
    // that gains, among parts that are well connected with the rest of it. At random in proportion to exp(gain).
    std::vector<Node> refined(const Level& level, const std::vector<Node>& of) {
        const size_t nodes = level.nodes();
        std::vector<Node> part(nodes);
        std::iota(part.begin(), part.end(), 0);
        std::vector<double> community(nodes), strength(level.strengths), outward(nodes), toward(nodes);
        std::vector<uint8_t> alone(nodes, 1);
        for (size_t node = 0; node < nodes; ++node) {
            community[of[node]] += level.strengths[node];
            for (int64_t edge = level.offsets[node]; edge < level.offsets[node + 1]; ++edge) {
                const Node to = level.targets[edge];
                if (to != static_cast<Node>(node) && of[to] == of[node]) outward[node] += level.weights[edge];
            }
        }
        const auto connected = [&](double out, double own, Node group) {
            return out >= form_.resolution * own * (community[group] - own) / total_;
        };
        std::vector<Node> touched;
        std::vector<double> chances;
        for (const Node node : shuffled(nodes)) {
            const double own = level.strengths[node];
            if (!alone[node] || !connected(outward[node], own, of[node])) continue;
            touched.clear();
            double inside = 0;
            for (int64_t edge = level.offsets[node]; edge < level.offsets[node + 1]; ++edge) {
                const Node to = level.targets[edge];
                if (to == node || of[to] != of[node]) continue;
                if (toward[part[to]] == 0) touched.push_back(part[to]);
                toward[part[to]] += level.weights[edge];
            }
            chances.clear();
            double sum = 0, most = 0;
            for (const Node group : touched) {
                const bool good = connected(outward[group], strength[group], of[node]);
                const double here = good ? gain(toward[group], own, strength[group]) : -1;
                chances.push_back(here);
                most = std::max(most, here);
            }
            for (double& chance : chances) sum += chance = chance < 0 ? 0 : std::exp((chance - most) / (kHeat * total_));
            Node chosen = part[node];
            if (sum > 0) {
                double draw = std::uniform_real_distribution<double>(0, sum)(random_);
                for (size_t at = 0; at < touched.size(); ++at) {
                    if (chances[at] == 0) continue;
                    chosen = touched[at];
                    if ((draw -= chances[at]) < 0) break;
                }
                inside = toward[chosen];
            }
            for (const Node group : touched) toward[group] = 0;
            if (chosen == part[node]) continue;
            part[node] = chosen;
            alone[chosen] = 0;
            strength[chosen] += own;
            outward[chosen] += outward[node] - 2 * inside;
        }
        return part;
    }

private:
    static constexpr double kLeast = 1e-12;  // of the weight of the graph: what counts as a gain
    static constexpr double kHeat = 1e-6;    // of the weight of the graph: gains that differ by less count as equal

    // Of a node that joins a group, in units of the weight of edges.
    double gain(double toward, double own, double strength) const {
        return toward - form_.resolution * own * strength / total_;
    }
    std::vector<Node> shuffled(size_t nodes) {
        std::vector<Node> order(nodes);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random_);
        return order;
    }

    CommunityForm form_;
    double total_;
    std::mt19937_64 random_;
    const Interrupt& interrupt_;
};

}  // namespace

double modularity(const Adjacency& graph, const std::vector<Node>& of, double resolution) {
    double total = 0, inside = 0;
    std::vector<double> strength(graph.nodes());
    for (size_t node = 0; node < graph.nodes(); ++node) {
        const auto targets = graph.targets(static_cast<Node>(node));
        for (size_t at = 0; at < targets.size(); ++at) {
            const double weight = graph.weight(static_cast<Node>(node), at);
            total += weight;
            strength[of[node]] += weight;
            if (of[targets[at]] == of[node]) inside += weight;
        }
    }
    if (total == 0) return 0;
    const double squares = std::inner_product(strength.begin(), strength.end(), strength.begin(), 0.0);
    return inside / total - resolution * squares / (total * total);
}

Communities communities(const Adjacency& graph, const CommunityForm& form, const Interrupt& interrupt) {
    std::vector<Node> of(graph.nodes());
    std::iota(of.begin(), of.end(), 0);
    const double total = std::accumulate(graph.strengths().begin(), graph.strengths().end(), 0.0);
    if (total > 0) {
        Optimiser optimiser(form, total, interrupt);
        const Level ground = first_level(graph);
        for (size_t round = 0; round < form.rounds; ++round) {
            Level level = ground;
            std::vector<Node> node_of(graph.nodes()), groups = of;  // of each node of the graph its node of this level
            std::iota(node_of.begin(), node_of.end(), 0);
            bool any = false;
            for (;;) {
                const bool moved = optimiser.move(level, groups);
                any = any || moved;
                for (size_t node = 0; node < of.size(); ++node) of[node] = groups[node_of[node]];
                std::vector<Node> parts = form.refine ? optimiser.refined(level, groups) : groups;
                const size_t count = renumber(parts);
                if (!moved || count == level.nodes()) break;
                std::vector<Node> next(count);
                for (size_t node = 0; node < level.nodes(); ++node) next[parts[node]] = groups[node];
                renumber(next);
                level = merged(level, parts, count);
                for (Node& node : node_of) node = parts[node];
                groups = std::move(next);
            }
            if (!any || !form.refine) break;  // Louvain is done; Leiden begins again from what it found
        }
    }
    renumber(of);
    const double quality = modularity(graph, of, form.resolution);
    return {std::move(of), quality};
}

}  // namespace rag
