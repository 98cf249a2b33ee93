import JLD2
load_extension(:SONewJLD2Ext)
x = Float32[1, 2]
opt = setup(SONewRule(), x)
for what in (opt, (1, opt), Dict("opt" => opt), SONew.Plan(SONewRule(), x), SONew.Pool(1))
    path = tempname() * ".jld2"
    @test argument_error(() -> JLD2.jldsave(path; what = what), "cannot be saved by JLD2", "save(opt")
end
if has_package("Optimisers")
    import Optimisers
    path, model = tempname() * ".jld2", (a = copy(x),)
    tree = Optimisers.setup(SONewRule(eta = 0.1), model)
    Optimisers.update!(tree, model, (a = Float32[3, 4],))
    JLD2.jldsave(path; tree = tree, model = model)
    loaded, again = JLD2.load(path, "tree", "model")
    Optimisers.update!(tree, model, (a = Float32[3, 4],))
    Optimisers.update!(loaded, again, (a = Float32[3, 4],))
    @test again == model && loaded.a.state == tree.a.state
end
