//! The part of `protoc` that `prost-build` uses: compile files under include paths into one descriptor set.
//! litep2p's build script wants a protobuf compiler in `PROTOC`; this one comes from the crates registry.

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("protoc: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (mut includes, mut files, mut output) = (Vec::new(), Vec::new(), None);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-I") => includes.push(PathBuf::from(args.next().ok_or("-I needs a path")?)),
            Some("-o") => output = Some(PathBuf::from(args.next().ok_or("-o needs a path")?)),
            Some("--include_imports" | "--include_source_info") => {}
            Some(option) if option.starts_with('-') => {
                return Err(format!("option {option} is not supported"));
            }
            _ => files.push(PathBuf::from(arg)),
        }
    }
    let output = output.ok_or("-o is missing")?;
    let mut compiler = protox::Compiler::new(includes).map_err(|e| e.to_string())?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files).map_err(|e| e.to_string())?;
    std::fs::write(&output, compiler.encode_file_descriptor_set())
        .map_err(|e| format!("{}: {e}", output.display()))
}
