//! The types of handles. C programs have pointers to them, which nobody follows: a handle is
//! a number. The header declares them before everything else.

/// A step in stages. Begun by sonew_stages_begin() or sonew_plan_stages_begin(); freed
/// when it is done, or by sonew_stages_abort(), or with its optimizer or plan.
pub struct sonew_stages {
    _opaque: [u8; 0],
}

/// A plan. Created by sonew_plan_create(), freed by sonew_plan_free().
pub struct sonew_plan {
    _opaque: [u8; 0],
}

/// A pool. Created by sonew_pool_create(), freed by sonew_pool_free().
pub struct sonew_pool {
    _opaque: [u8; 0],
}

/// An open file. Created by sonew_file_open(), freed by sonew_file_free().
pub struct sonew_file {
    _opaque: [u8; 0],
}

/// A save that runs in the background. Begun by sonew_save_begin(), ended by
/// sonew_save_finish().
pub struct sonew_saving {
    _opaque: [u8; 0],
}

/// An optimizer. Created by sonew_create(), freed by sonew_free().
pub struct sonew_optimizer {
    _opaque: [u8; 0],
}
