//! stub
pub fn summary(_r: &super::RunReport) -> String {
    String::new()
}
