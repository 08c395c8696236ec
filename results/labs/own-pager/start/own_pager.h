#pragma once

#include "results/catalog.h"

/// The row that mmuscope's catalogue would have for your pager: its name, and how it is made.
const mmuscope::PagerInfo& own_pager();
