# The blocks of Julia in README.md of the repository and in that of the package run as they stand
# there. `packages/Flux.jl` runs those with Flux.
root = joinpath(@__DIR__, "..", "..", "..", "..")
blocks(path) = [m[2] for m in eachmatch(r"(<!-- not run: .* -->\n)?^```julia\n(.*?)^```"sm, read(path, String))
                if m[1] === nothing]
readme = joinpath(root, "README.md")
guide = joinpath(root, "bindings/julia/SONew/README.md")

"The only block that has some words, taken from a list."
function take!(blocks, words)
    i = findfirst(block -> occursin(words, block), blocks)
    @test i !== nothing
    return splice!(blocks, i)
end

"Runs lines in a module of their own, where names are defined."
function run_lines(code; names...)
    room = Module(:Page)
    Core.eval(room, :(using SONew))
    for (name, value) in names
        Core.eval(room, :($name = $value))
    end
    return include_string(room, code)
end

"A block in two parts, where a comment stands for what another process does."
halves(block, comment) = split(block, comment)

mktempdir() do folder
    cd(folder) do
        of_readme = blocks(readme)
        room = Module(:Readme)
        include_string(room, take!(of_readme, "step-300"))
        @test isempty(of_readme)
        # Two units, three inputs: the points are on a plane.
        @test Core.eval(room, :(sum(abs2, model.W' * x .+ model.b .- y) / 100)) < 0.01
        @test isfile("step-300.safetensors")

        left = blocks(guide)
        rule = SONewRule(eta = 1e-3)
        small() = (W1 = randn(Float32, 5, 4), b1 = zeros(Float32, 4))
        run_lines(take!(left, "for (x, y) in batches");
                  gradient = (model, x, y) -> map(a -> a .+ x, model), batches = [(1, 2), (3, 4)])
        @test isfile("step-1000.safetensors")

        opt = run_lines(take!(left, "hyperparameters = (name, x) ->\n    ndims");
                        rule = rule, model = (W1 = randn(Float32, 5, 4), b1 = zeros(Float32, 4),
                                              embedding = randn(Float32, 3, 2)))
        @test tensor_names(opt) == ["W1", "b1"]

        x, plan = randn(Float32, 6), SONew.Plan(rule, Float32, (6,))
        planes, scalars = SONew.zero_planes(plan), SONew.zero_scalars()
        SONew.direction!(zeros(Float32, 6), plan, planes, ones(Float32, 6), 1; scalars = scalars)
        run_lines(take!(left, "set_state!"); rule = rule, x = x, step = 1, planes = planes, scalars = scalars)

        model = small()
        opt = setup(rule, model)
        step!(opt, model, map(copy, model))
        run_lines(take!(left, "save_begin"); opt = opt, path = "file.safetensors", model = model,
                  rule = rule, others = String[])
        run_lines(take!(left, "texts = Dict"); opt = opt, path = "texts.safetensors", model = model,
                  rule = rule, json = "{}")

        before, after = halves(take!(left, "make_live!"), "# ... killed; in another process:")
        run_lines("$before\nclose(opt)"; model = model)
        run_lines(after; model = model, rule = SONewRule(eta = 1e-3, master = true))

        before, after = halves(take!(left, "W[:, 301:600]"), "# ... saved by each machine, and then loaded by one:")
        paths = ["part-$i.safetensors" for i in 1:4]
        W = randn(Float32, 784, 1000)
        for (i, first) in enumerate((301, 1, 601, 901))
            rows = first:min(first + 299, 1000)
            lines = replace(replace(before, "301:600" => string(rows)), "301" => string(first))
            run_lines("$lines\nsave(opt, \"$(paths[i])\", (W = W[:, $rows],))"; rule = rule, W = W)
        end
        whole = run_lines("$after\nwhole"; paths = paths)
        @test whole.W == W

        # As in a function.
        lines = take!(left, "SONEW_NON_FINITE_GRADIENT")
        scale = run_lines("let scale = 8.0\n$lines\nscale\nend"; opt = opt, model = model,
                          grads = map(a -> a .+ NaN32, model))
        @test scale == 4
        @test all(block -> occursin("Flux", block) || occursin("Optimisers", block), left)
        close(opt)
    end
end
