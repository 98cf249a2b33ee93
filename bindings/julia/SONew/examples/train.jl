# Trains a small network, written in plain Julia, and keeps the optimizer's state and
# the weights in a live file: if it is killed at any moment, it can continue from there.
#
#     julia --project=bindings/julia/SONew bindings/julia/SONew/examples/train.jl FILE [STEPS]
#
# FILE is created if it does not exist; otherwise training continues from it.

using SONew, Printf, Random

# A network of three layers. Weights are W[in, out], so that chains, which follow
# memory, run along each unit's inputs.
layer(rng, inputs, outputs) =
    (W = randn(rng, Float32, inputs, outputs) ./ Float32(sqrt(inputs)), b = zeros(Float32, outputs))

function network()
    rng = MersenneTwister(1)
    return (first = layer(rng, 2, 48), second = layer(rng, 48, 48), last = layer(rng, 48, 1))
end

# The target: a wavy surface over a square, at 24 x 24 points.
points = Float32[x for _ in 1:1, x in range(-1, 1; length = 24), _ in 1:24]
const INPUTS = vcat(reshape(points, 1, :), reshape(permutedims(points, (1, 3, 2)), 1, :))
const TARGETS = reshape([sin(4x) * cos(3y) for (x, y) in eachcol(INPUTS)], 1, :)

# The loss, half the mean squared error, and its gradient by hand.
function loss_and_gradient(net)
    h1 = tanh.(net.first.W' * INPUTS .+ net.first.b)
    h2 = tanh.(net.second.W' * h1 .+ net.second.b)
    error = net.last.W' * h2 .+ net.last.b .- TARGETS
    n = Float32(size(INPUTS, 2))
    d3 = error ./ n
    d2 = (net.last.W * d3) .* (1 .- h2 .^ 2)
    d1 = (net.second.W * d2) .* (1 .- h1 .^ 2)
    gradient(input, d) = (W = input * d', b = vec(sum(d; dims = 2)))
    loss = sum(abs2, error) / 2n
    return loss, (first = gradient(INPUTS, d1), second = gradient(h1, d2), last = gradient(h2, d3))
end

function main(file, steps)
    net = network()
    # Master weights are the Float32 parameters themselves, kept in the file.
    rule = SONewRule(master = true)
    if isfile(file)
        opt = load(file, rule, net; mode = :map_shared)
        println("continuing $file at step $(step_count(opt))")
    else
        opt = make_live!(setup(rule, net), file)
        println("a new run in $file")
    end
    try
        println("\n   step        loss   |gradient|")
        for i in 0:steps
            loss, gradient = loss_and_gradient(net)
            if i % max(1, steps ÷ 10) == 0
                norm = sqrt(sum(sum(abs2, x) for part in gradient for x in part))
                @printf("%7d  %10.6f   %10.6f\n", step_count(opt), loss, norm)
            end
            # The learning rate depends only on the step, so that a continued run uses the
            # same one.
            i < steps && step!(opt, net, gradient; eta = 1e-2 / (1 + step_count(opt) / 100))
        end
    finally
        close(opt)
    end
end

if length(ARGS) in 1:2
    main(ARGS[1], length(ARGS) == 2 ? parse(Int, ARGS[2]) : 500)
else
    println(stderr, "usage: train.jl FILE [STEPS]")
    exit(2)
end
