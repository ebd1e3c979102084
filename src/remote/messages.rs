//! The messages of the Remote Execution API (v2) that a client needs. Unknown fields of a server are skipped.
//!
//! The field numbers are those of `build/bazel/remote/execution/v2/remote_execution.proto`, `google/bytestream/bytestream.proto`,
//! `google/longrunning/operations.proto` and `google/rpc/status.proto`.
#![allow(missing_docs, reason = "the names are those of the protocol's own documentation")]

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$doc])* #[derive(Clone, PartialEq, ::prost::Message)] pub struct $name { $($(#[$attr])* pub $field: $type,)* })*
    };
}

messages! {
    Digest {
        #[prost(string, tag = "1")] hash: String,
        #[prost(int64, tag = "2")] size_bytes: i64,
    }
    Any {
        #[prost(string, tag = "1")] type_url: String,
        #[prost(bytes = "vec", tag = "2")] value: Vec<u8>,
    }
    Status {
        #[prost(int32, tag = "1")] code: i32,
        #[prost(string, tag = "2")] message: String,
    }
    Duration {
        #[prost(int64, tag = "1")] seconds: i64,
        #[prost(int32, tag = "2")] nanos: i32,
    }
    Property {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, tag = "2")] value: String,
    }
    Platform {
        #[prost(message, repeated, tag = "1")] properties: Vec<Property>,
    }
    Action {
        #[prost(message, optional, tag = "1")] command_digest: Option<Digest>,
        #[prost(message, optional, tag = "2")] input_root_digest: Option<Digest>,
        #[prost(message, optional, tag = "6")] timeout: Option<Duration>,
        #[prost(bool, tag = "7")] do_not_cache: bool,
        #[prost(bytes = "vec", tag = "9")] salt: Vec<u8>,
        #[prost(message, optional, tag = "10")] platform: Option<Platform>,
    }
    Command {
        #[prost(string, repeated, tag = "1")] arguments: Vec<String>,
        #[prost(message, repeated, tag = "2")] environment_variables: Vec<Property>,
        #[prost(string, repeated, tag = "3")] output_files: Vec<String>,
        #[prost(message, optional, tag = "5")] platform: Option<Platform>,
        #[prost(string, repeated, tag = "7")] output_paths: Vec<String>,
    }
    FileNode {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] digest: Option<Digest>,
        #[prost(bool, tag = "4")] is_executable: bool,
    }
    DirectoryNode {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] digest: Option<Digest>,
    }
    Directory {
        #[prost(message, repeated, tag = "1")] files: Vec<FileNode>,
        #[prost(message, repeated, tag = "2")] directories: Vec<DirectoryNode>,
    }
    OutputFile {
        #[prost(string, tag = "1")] path: String,
        #[prost(message, optional, tag = "2")] digest: Option<Digest>,
        #[prost(bool, tag = "4")] is_executable: bool,
    }
    ExecutedActionMetadata {
        #[prost(string, tag = "1")] worker: String,
    }
    ActionResult {
        #[prost(message, repeated, tag = "2")] output_files: Vec<OutputFile>,
        #[prost(int32, tag = "4")] exit_code: i32,
        #[prost(bytes = "vec", tag = "5")] stdout_raw: Vec<u8>,
        #[prost(message, optional, tag = "6")] stdout_digest: Option<Digest>,
        #[prost(bytes = "vec", tag = "7")] stderr_raw: Vec<u8>,
        #[prost(message, optional, tag = "8")] stderr_digest: Option<Digest>,
        #[prost(message, optional, tag = "9")] execution_metadata: Option<ExecutedActionMetadata>,
    }
    FindMissingBlobsRequest {
        #[prost(string, tag = "1")] instance_name: String,
        #[prost(message, repeated, tag = "2")] blob_digests: Vec<Digest>,
    }
    FindMissingBlobsResponse {
        #[prost(message, repeated, tag = "2")] missing_blob_digests: Vec<Digest>,
    }
    Blob {
        #[prost(message, optional, tag = "1")] digest: Option<Digest>,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
    }
    BatchUpdateBlobsRequest {
        #[prost(string, tag = "1")] instance_name: String,
        #[prost(message, repeated, tag = "2")] requests: Vec<Blob>,
    }
    Updated {
        #[prost(message, optional, tag = "1")] digest: Option<Digest>,
        #[prost(message, optional, tag = "2")] status: Option<Status>,
    }
    BatchUpdateBlobsResponse {
        #[prost(message, repeated, tag = "1")] responses: Vec<Updated>,
    }
    ExecuteRequest {
        #[prost(string, tag = "1")] instance_name: String,
        #[prost(bool, tag = "3")] skip_cache_lookup: bool,
        #[prost(message, optional, tag = "6")] action_digest: Option<Digest>,
    }
    WaitExecutionRequest {
        #[prost(string, tag = "1")] name: String,
    }
    CancelOperationRequest {
        #[prost(string, tag = "1")] name: String,
    }
    Empty {}
    ExecuteOperationMetadata {
        /// 1: looks up the cache, 2: queued, 3: executing, 4: completed.
        #[prost(int32, tag = "1")] stage: i32,
    }
    ExecuteResponse {
        #[prost(message, optional, tag = "1")] result: Option<ActionResult>,
        #[prost(bool, tag = "2")] cached_result: bool,
        #[prost(message, optional, tag = "3")] status: Option<Status>,
        #[prost(string, tag = "5")] message: String,
    }
    /// `google.longrunning.Operation`; its result is one of the last two fields.
    Operation {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] metadata: Option<Any>,
        #[prost(bool, tag = "3")] done: bool,
        #[prost(message, optional, tag = "4")] error: Option<Status>,
        #[prost(message, optional, tag = "5")] response: Option<Any>,
    }
    ReadRequest {
        #[prost(string, tag = "1")] resource_name: String,
        #[prost(int64, tag = "2")] read_offset: i64,
    }
    ReadResponse {
        #[prost(bytes = "vec", tag = "10")] data: Vec<u8>,
    }
    WriteRequest {
        #[prost(string, tag = "1")] resource_name: String,
        #[prost(int64, tag = "2")] write_offset: i64,
        #[prost(bool, tag = "3")] finish_write: bool,
        #[prost(bytes = "vec", tag = "10")] data: Vec<u8>,
    }
    WriteResponse {
        #[prost(int64, tag = "1")] committed_size: i64,
    }
    GetCapabilitiesRequest {
        #[prost(string, tag = "1")] instance_name: String,
    }
    CacheCapabilities {
        /// 1 is SHA-256.
        #[prost(int32, repeated, tag = "1")] digest_functions: Vec<i32>,
        #[prost(int64, tag = "4")] max_batch_total_size_bytes: i64,
    }
    ExecutionCapabilities {
        #[prost(bool, tag = "2")] exec_enabled: bool,
    }
    ServerCapabilities {
        #[prost(message, optional, tag = "1")] cache_capabilities: Option<CacheCapabilities>,
        #[prost(message, optional, tag = "2")] execution_capabilities: Option<ExecutionCapabilities>,
    }
}
