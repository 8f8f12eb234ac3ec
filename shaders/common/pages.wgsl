// Where the rows of the cache are. The op declares the binding `tables: array<u32>`.

// Number of the page of `position` in the table of a slot; `local` is 1 for the ring of local layers.
fn page_of(slot: u32, position: u32, local: u32) -> u32 {
  let info = 4u * slot + 2u * local;
  return tables[tables[info] + (position / PAGE) % tables[info + 1u]];
}

// Index of the first stored row of a head in a page.
fn first_row(page: u32, head: u32, kv_heads: u32) -> u32 {
  return (page * kv_heads + head) * PAGE;
}
